//! `slo report` on a real Prometheus that holds a synthetic month.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Stdio;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use crate::common::tools::installed;
use crate::common::{eventually, free_port, http};
use crate::{command, run};

/// The first second of June 2025, a month of 30 days.
const JUNE_S: i64 = 1_748_736_000;
const DAY: i64 = 1_440;

/// Samples in the middle of each minute.
struct Samples(String);

impl Samples {
    fn family(&mut self, name: &str, kind: &str) {
        let _ = writeln!(self.0, "# TYPE {name} {kind}");
    }

    fn series(&mut self, name: &str, labels: &str, minutes: i64, value: impl Fn(i64) -> f64) {
        for minute in 0..minutes {
            let at_s = JUNE_S + minute * 60 + 30;
            let _ = writeln!(self.0, "{name}{{job=\"im-gateway-service\",{labels}}} {} {at_s}", value(minute));
        }
    }
}

/// A Prometheus that holds these samples; ended with this.
struct Prometheus {
    _child: Child,
    url: String,
}

async fn prometheus(dir: &Path, mut samples: Samples) -> Prometheus {
    samples.0 += "# EOF\n";
    fs::write(dir.join("samples"), samples.0).expect("a file");
    let made = Command::new("promtool")
        .args(["tsdb", "create-blocks-from", "--max-block-duration=720h", "openmetrics"])
        .args([dir.join("samples"), dir.join("data")])
        .stdin(Stdio::null())
        .output()
        .await
        .expect("promtool starts");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    fs::write(dir.join("prometheus.yml"), "global: {}\n").expect("a file");
    let port = free_port();
    let child = Command::new("prometheus")
        .arg(format!("--config.file={}", dir.join("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
        .args(["--storage.tsdb.retention.time=50y", "--log.level=error"])
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("Prometheus starts");
    let addr = format!("127.0.0.1:{port}");
    eventually("Prometheus answers", async || {
        http::get(&addr, "/-/ready").await.ok().filter(|answer| answer.status == 200).map(drop)
    })
    .await;
    Prometheus { _child: child, url: format!("http://{addr}") }
}

async fn report(prometheus: &Prometheus) -> String {
    let said = run(&mut command(["slo", "report", "--month", "2025-06", "--prometheus", &prometheus.url])).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    said.out
}

fn ready() -> bool {
    ["prometheus", "promtool"].into_iter().all(|program| installed(program, "the monthly report").is_some())
}

fn says(text: &str, line: &str) {
    assert!(text.lines().any(|found| found == line), "no line\n{line}\nin\n{text}");
}

#[tokio::test]
async fn a_month_that_was_recorded() {
    if !ready() {
        return;
    }
    let dir = TempDir::new().expect("a folder");
    let month = 30 * DAY;
    let mut samples = Samples(String::new());
    samples.family("slo:sli_bad:rate5m", "gauge");
    // One of three nodes for 5 minutes; one delivery of 200 all the time; one message of ten for 10 minutes.
    let during = |minute: i64, from: i64, length: i64| (from..from + length).contains(&minute);
    let down = |minute| if during(minute, 1_000, 5) { 1.0 / 3.0 } else { 0.0 };
    samples.series("slo:sli_bad:rate5m", "slo=\"availability\"", month, down);
    samples.series("slo:sli_bad:rate5m", "slo=\"latency\"", month, |_| 0.05);
    samples.series("slo:sli_bad:rate5m", "slo=\"success\"", month, |minute| f64::from(during(minute, 20_000, 10)));
    samples.family("slo:sli_total:rate5m", "gauge");
    samples.series("slo:sli_total:rate5m", "slo=\"availability\"", month, |_| 1.0);
    for slo in ["latency", "success"] {
        samples.series("slo:sli_total:rate5m", &format!("slo=\"{slo}\""), month, |_| 10.0);
    }
    let text = report(&prometheus(dir.path(), samples).await).await;
    for line in [
        "**Month**: June 2025",
        "- Availability: 99.9961% ✅ (Target: 99.95%)",
        "- Latency: 99.5% within 200ms ✅ (Target: 99%)",
        "- Success Rate: 99.9976% ✅ (Target: 99.99%)",
        "| Availability | 21.60 minutes | 1.67 minutes (7.7%) | 19.93 minutes (92.3%) |",
        "| Latency | 259200 slow deliveries | 129600 slow deliveries (50.0%) | 129600 slow deliveries (50.0%) |",
        "| Success Rate | 2592 failed messages | 600 failed messages (23.1%) | 1992 failed messages (76.9%) |",
        "1. Availability (Jun 1 16:40 UTC): 5 min, 1.67 minutes, 7.7% of the budget",
        "2. Success Rate (Jun 14 21:20 UTC): 10 min, 600 failed messages, 23.1% of the budget",
    ] {
        says(&text, line);
    }
    assert!(!text.contains("there are samples for"), "{text}");
}

#[tokio::test]
async fn what_nobody_recorded_is_computed_from_the_nodes_own_metrics() {
    if !ready() {
        return;
    }
    const MINUTES: i64 = 2 * DAY;
    let dir = TempDir::new().expect("a folder");
    let mut samples = Samples(String::new());
    let nodes = [0, 1, 2].map(|node| format!("instance=\"n{node}\""));
    samples.family("up", "gauge");
    nodes.iter().for_each(|node| samples.series("up", node, MINUTES, |_| 1.0));
    samples.family("im_gateway_ready", "gauge");
    for (number, node) in nodes.iter().enumerate() {
        let ready = move |minute| f64::from(number > 0 || !(600..612).contains(&minute));
        samples.series("im_gateway_ready", node, MINUTES, ready);
    }
    samples.family("im_gateway_not_ready", "gauge");
    for node in &nodes {
        samples.series("im_gateway_not_ready", &format!("{node},reason=\"draining\""), MINUTES, |_| 0.0);
    }
    let node = &nodes[0];
    samples.family("im_gateway_messages_delivered", "counter");
    let labels = format!("{node},type=\"direct\"");
    samples.series("im_gateway_messages_delivered_total", &labels, MINUTES, |minute| (600 * minute) as f64);
    samples.family("im_gateway_messages_failed", "counter");
    let failed = |minute: i64| (7_000 + 60 * (minute - 1_000).clamp(0, 5)) as f64;
    let labels = format!("{node},reason=\"inbox_full\",type=\"direct\"");
    samples.series("im_gateway_messages_failed_total", &labels, MINUTES, failed);
    samples.family("im_gateway_message_delivery_latency_seconds", "histogram");
    for (edge, count) in [("0.1", 500), ("0.2", 597), ("0.5", 600), ("+Inf", 600)] {
        let labels = format!("{node},type=\"direct\",le=\"{edge}\"");
        let name = "im_gateway_message_delivery_latency_seconds_bucket";
        samples.series(name, &labels, MINUTES, |minute| (count * minute) as f64);
    }
    let name = "im_gateway_message_delivery_latency_seconds_count";
    samples.series(name, &format!("{node},type=\"direct\""), MINUTES, |minute| (600 * minute) as f64);

    let text = report(&prometheus(dir.path(), samples).await).await;
    says(&text, "- Latency (P99): 197ms ✅ (Target: < 200ms; 99.5% of deliveries were within it)");
    // One of three nodes for 12 minutes.
    says(&text, "| Availability | 21.60 minutes | 4.00 minutes (18.5%) | 17.60 minutes (81.5%) |");
    says(&text, "1. Availability (Jun 1 10:00 UTC): 13 min, 4.00 minutes, 18.5% of the budget");
    // A rate is an estimate between samples.
    let failed = text.lines().find(|line| line.starts_with("| Success Rate")).and_then(|line| line.split(" | ").nth(2));
    let failed = failed.and_then(|text| text.split(' ').next()?.parse::<f64>().ok()).expect("a number");
    assert!((290.0..=310.0).contains(&failed), "{text}");
    assert!(text.contains("- Of availability there are samples for 6.7% of the time"), "{text}");
}

#[tokio::test]
async fn a_month_without_samples_or_in_the_future_is_refused() {
    if !ready() {
        return;
    }
    let dir = TempDir::new().expect("a folder");
    let mut samples = Samples(String::new());
    samples.family("other", "gauge");
    samples.series("other", "x=\"y\"", 2, |_| 1.0);
    let prometheus = prometheus(dir.path(), samples).await;
    for (month, words) in [("2025-06", "no samples of June 2025"), ("9999-01", "has not begun")] {
        let said = run(&mut command(["slo", "report", "--month", month, "--prometheus", &prometheus.url])).await;
        assert!(said.code == Some(1) && said.err.contains(words), "{said:?}");
    }
    let said = run(&mut command(["slo", "report", "--month", "2025-6"])).await;
    assert!(said.code == Some(2) && said.err.contains("not a month such as 2026-10"), "{said:?}");
    let nobody = run(&mut command(["slo", "report", "--month", "2025-06", "--prometheus", "http://127.0.0.1:1"])).await;
    assert!(nobody.code == Some(1) && nobody.err.contains("cannot reach Prometheus"), "{nobody:?}");
}

#[tokio::test]
async fn lines_agree_where_nothing_was_recorded_for_a_while() {
    if !ready() {
        return;
    }
    let dir = TempDir::new().expect("a folder");
    let mut samples = Samples(String::new());
    // Recorded for 200 minutes but for the middle, in which every delivery was slow.
    let recorded = |minute: i64| !(60..120).contains(&minute);
    let record = |samples: &mut Samples, name: &str, slo: &str, value: f64| {
        let labels = format!("{name}{{job=\"im-gateway-service\",slo=\"{slo}\"}}");
        // Four a minute; of the first one, half.
        for quarter in (2..200 * 4).filter(|quarter| recorded(quarter / 4)) {
            let _ = writeln!(samples.0, "{labels} {value} {}", JUNE_S + quarter * 15 + 7);
        }
    };
    samples.family("slo:sli_bad:rate5m", "gauge");
    record(&mut samples, "slo:sli_bad:rate5m", "availability", 0.1);
    record(&mut samples, "slo:sli_bad:rate5m", "latency", 0.0);
    samples.family("slo:sli_total:rate5m", "gauge");
    record(&mut samples, "slo:sli_total:rate5m", "availability", 1.0);
    record(&mut samples, "slo:sli_total:rate5m", "latency", 10.0);
    samples.family("im_gateway_message_delivery_latency_seconds", "histogram");
    let fast = |minute: i64| (600 * (minute - (minute - 60).clamp(0, 58))) as f64;
    for (edge, slow) in [("0.005", false), ("0.2", false), ("2.5", true), ("+Inf", true)] {
        let labels = format!("type=\"direct\",le=\"{edge}\"");
        let name = "im_gateway_message_delivery_latency_seconds_bucket";
        samples.series(name, &labels, 200, |minute| if slow { (600 * minute) as f64 } else { fast(minute) });
    }
    let text = report(&prometheus(dir.path(), samples).await).await;
    says(&text, "- Latency (P99): 5ms ✅ (Target: < 200ms; 100% of deliveries were within it)");
    // 139.5 minutes, of which a tenth was bad.
    says(
        &text,
        "- Availability: 99.9677% of the month if the rest of it is good ✅ (Target: 99.95%; 90% of the 2.3 hours observed)",
    );
    says(&text, "| Availability | 21.60 minutes | 13.95 minutes (64.6%) | 7.65 minutes (35.4%) |");
}

#[tokio::test]
async fn prometheus_may_be_behind_a_path_and_a_password() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("it is bound");
    let asked = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut head = vec![0; 4096];
        let length = stream.read(&mut head).await.expect("a request");
        stream.write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\nno").await.expect("an answer");
        String::from_utf8_lossy(&head[..length]).to_ascii_lowercase()
    });
    let url = format!("http://me:se%40cret@{addr}/prom/");
    let said = run(&mut command(["slo", "report", "--month", "2025-06", "--prometheus", &url])).await;
    assert!(said.code == Some(1) && said.err.contains("Prometheus answered 401: no"), "{said:?}");
    let asked = asked.await.expect("it was asked");
    assert!(asked.starts_with("get /prom/api/v1/query_range?query="), "{asked}");
    // me:se@cret
    assert!(asked.contains("\r\nauthorization: basic bwu6c2vay3jlda==\r\n"), "{asked}");
    assert!(asked.contains(&format!("\r\nhost: {addr}\r\n")), "{asked}");
    for wrong in ["http://a/?x=1", "ftp://a", "http://"] {
        let said = run(&mut command(["slo", "report", "--month", "2025-06", "--prometheus", wrong])).await;
        assert!(said.code == Some(2) && said.err.contains("--prometheus"), "{said:?}");
    }
}
