//! What the shipped rules and the shipped Alertmanager configuration are in a drill. Pure.
//!
//! Invariant: nothing is changed but durations, a threshold that the drill lowers, and where notifications go.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

/// The shipped rules. Those of `monitoring.yml` watch programs that no drill starts.
pub const RULES: [(&str, &str); 3] = [
    ("gateway.yml", include_str!("../../../../alerts/rules/gateway.yml")),
    ("cluster.yml", include_str!("../../../../alerts/rules/cluster.yml")),
    ("slo.yml", include_str!("../../../../alerts/rules/slo.yml")),
];
const ALERTMANAGER: &str = include_str!("../../../../deploy/docker/alertmanager-config.yml");

/// Prometheus looks at nodes and rules so often in production.
const SCRAPE: Duration = Duration::from_secs(15);
/// And in a drill, however fast it is.
const SCRAPE_MIN: Duration = Duration::from_millis(500);
/// A rate needs samples: no window has fewer than so many.
const SAMPLES: u32 = 4;

/// An alert that has not come, or not ended, by then never will, at the pace that its drill has by itself or a faster
/// one: programs take their time to start and to notice.
const PATIENCE: Duration = Duration::from_secs(300);

/// How much faster than in production everything goes.
#[derive(Debug, Clone, Copy)]
pub struct Pace(pub u32);

impl Pace {
    /// How often nodes are scraped and rules evaluated.
    pub fn scrape(self) -> Duration {
        (SCRAPE / self.0).max(SCRAPE_MIN)
    }

    /// A time that something must last.
    pub fn time(self, real: Duration) -> Duration {
        (real / self.0).max(Duration::from_millis(1))
    }

    /// How long an alert is waited for, of a drill that has the pace `own` by itself.
    pub fn patience(self, own: Self) -> Duration {
        PATIENCE.mul_f64((f64::from(own.0) / f64::from(self.0)).max(1.0))
    }

    /// A window over samples.
    pub fn window(self, real: Duration) -> Duration {
        (real / self.0).max(self.scrape() * SAMPLES).min(real)
    }
}

/// As Prometheus writes durations.
fn text(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

/// A duration as the shipped files have them, such as `5m`; with what follows it.
fn leading(text: &str) -> Option<(Duration, &str)> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let unit = text[digits..].chars().take_while(char::is_ascii_alphabetic).count();
    let end = digits + unit;
    (digits > 0 && unit > 0).then_some(())?;
    Some((im_gateway::duration::parse(&text[..end]).ok()?, &text[end..]))
}

/// Rewrites each duration that follows `mark`.
fn rewrite(line: &str, mark: &str, faster: impl Fn(Duration) -> Duration) -> String {
    let mut parts = line.split(mark);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str(mark);
        match leading(part) {
            Some((real, rest)) => out.extend([text(faster(real)).as_str(), rest]),
            None => out.push_str(part),
        }
    }
    out
}

/// The duration in the first pair of brackets.
fn window_of(line: &str) -> Option<Duration> {
    leading(line.split_once('[')?.1).map(|(window, _)| window)
}

/// A shipped file of rules at this pace, each `threshold` lowered.
pub fn rules(shipped: &str, pace: Pace, threshold: Option<(&str, &str)>) -> String {
    let mut out = String::new();
    for line in shipped.lines() {
        let mut line = line.to_owned();
        if let Some(window) = window_of(&line) {
            // Windows that are weighed with how much of them was observed say their length again, in seconds.
            let seconds = |window: Duration| format!(") / {}, 1)", window.as_secs_f64());
            line = line.replace(&seconds(window), &seconds(pace.window(window)));
        }
        line = rewrite(&line, "[", |window| pace.window(window));
        line = rewrite(&line, "offset ", |offset| pace.window(offset));
        line = rewrite(&line, "for: ", |real| pace.time(real));
        if let Some((shipped, lowered)) = threshold {
            line = line.replace(shipped, lowered);
        }
        out += &line;
        out.push('\n');
    }
    out
}

/// The shipped Alertmanager configuration: the same routes, with the sink at `port` for PagerDuty and Slack, and
/// no mail. Business hours are always.
pub fn alertmanager(pace: Pace, port: u16, folder: &Path) -> String {
    let mut out = String::new();
    let mut mail = false;
    let (slack, key) = (folder.join("slack-url"), folder.join("pagerduty-key"));
    for line in ALERTMANAGER.lines() {
        let indent = line.len() - line.trim_start().len();
        mail = (mail && indent > 4) || line.trim() == "email_configs:";
        let key_of_line = line.trim().split(':').next().unwrap_or_default();
        if mail || key_of_line.starts_with("smtp_") || key_of_line == "times" || line.trim_start().starts_with("times:")
        {
            continue;
        }
        let line = match key_of_line {
            "slack_api_url_file" => format!("  slack_api_url_file: {}", slack.display()),
            "pagerduty_url" => format!("  pagerduty_url: http://127.0.0.1:{port}/pagerduty"),
            "routing_key_file" => format!("{}routing_key_file: {}", " ".repeat(indent), key.display()),
            "group_wait" | "group_interval" | "repeat_interval" => rewrite(line, ": ", |real| pace.time(real)),
            _ => line.replace("monday:friday", "sunday:saturday"),
        };
        let _ = writeln!(out, "{line}");
    }
    out
}

/// Prometheus' configuration.
pub fn prometheus(pace: Pace, nodes: &[String], alertmanager: u16, folder: &Path) -> String {
    let scrape = text(pace.scrape());
    let targets: Vec<String> = nodes.iter().map(|node| format!("\"{node}\"")).collect();
    format!(
        "global:\n  scrape_interval: {scrape}\n  scrape_timeout: {scrape}\n  evaluation_interval: {scrape}\n\
         rule_files: [\"{rules}/*.yml\"]\n\
         alerting:\n  alertmanagers:\n    - static_configs:\n        - targets: [\"127.0.0.1:{alertmanager}\"]\n\
         scrape_configs:\n  - job_name: im-gateway-service\n    static_configs:\n      - targets: [{targets}]\n",
        rules = folder.join("rules").display(),
        targets = targets.join(", "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_the_pace_of_production_nothing_changes_but_the_way_of_writing() {
        for (name, shipped) in RULES {
            let same = rules(shipped, Pace(1), None);
            for (line, same) in shipped.lines().zip(same.lines()) {
                let windows = |line: &str| window_of(line);
                assert_eq!(windows(line), windows(same), "{name}: {line}");
                assert_eq!(line.contains("for: "), same.contains("for: "));
            }
        }
    }

    #[test]
    fn durations_and_nothing_else_are_rewritten() {
        let pace = Pace(30);
        assert_eq!(rules("  for: 5m", pace, None), "  for: 10000ms\n");
        assert_eq!(rules("rate(a[5m]) / 10 / 300", pace, None), "rate(a[10000ms]) / 10 / 300\n");
        assert_eq!(rules("up{job=\"x\"}[1s] offset 30s", pace, None), "up{job=\"x\"}[1000ms] offset 2000ms\n");
        let weighed = "* clamp_max((time() - min_over_time(slo:observed:timestamp_seconds[1h])) / 3600, 1)";
        let faster = "* clamp_max((time() - min_over_time(slo:observed:timestamp_seconds[120000ms])) / 120, 1)";
        assert_eq!(rules(weighed, pace, None).trim_end(), faster);
        assert_eq!(rules("- record: slo:sli_bad:rate5m", pace, None), "- record: slo:sli_bad:rate5m\n");
        let lowered = rules("a > 100000", pace, Some(("> 100000", "> 50")));
        assert_eq!(lowered, "a > 50\n");
        // Of the whole shipped file no window, and no length of one, is left as it was.
        let (_, slo) = RULES[2];
        let fast = rules(slo, Pace(30), None);
        for left in ["/ 1800, 1)", "/ 3600, 1)", "/ 2592000, 1)", "[5m]", "[30d]", "for: 5m", "for: 15m"] {
            assert!(slo.contains(left) && !fast.contains(left), "{left}");
        }
        assert_eq!(slo.matches("record:").count(), fast.matches("record:").count());
    }

    #[test]
    fn whoever_plays_slower_waits_longer() {
        assert_eq!(Pace(1).patience(Pace(30)), PATIENCE * 30);
        assert_eq!((Pace(30).patience(Pace(30)), Pace(300).patience(Pace(30))), (PATIENCE, PATIENCE));
    }

    #[test]
    fn no_window_is_without_samples() {
        let pace = Pace(30_000);
        assert_eq!((pace.scrape(), pace.window(Duration::from_secs(300))), (SCRAPE_MIN, SCRAPE_MIN * 4));
        assert_eq!(pace.window(Duration::from_secs(30 * 86_400)), Duration::from_millis(86_400));
        assert_eq!(Pace(1).scrape(), SCRAPE);
    }

    #[test]
    fn notifications_go_to_the_sink_alone() {
        let config = alertmanager(Pace(30), 7_777, Path::new("/tmp/x"));
        for gone in ["smtp", "email", "/etc/alertmanager", "events.pagerduty.com", "times: [", "monday:friday"] {
            assert!(ALERTMANAGER.contains(gone) && !config.contains(gone), "{gone}\n{config}");
        }
        assert!(config.contains("pagerduty_url: http://127.0.0.1:7777/pagerduty\n"));
        assert!(config.contains("slack_api_url_file: /tmp/x/slack-url\n"));
        assert!(config.contains("group_wait: 1000ms\n") && config.contains("group_interval: 10000ms\n"), "{config}");
        let routes = |text: &str| text.matches("matchers:").count();
        assert_eq!(routes(ALERTMANAGER), routes(&config));
    }
}
