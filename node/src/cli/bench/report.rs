//! The result of a run, for people and for scripts.

use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::plan::Stats;
use super::servers::Server;

/// Percentiles of a time, in milliseconds.
#[derive(Debug, Serialize)]
pub struct Times {
    pub count: u64,
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
}

impl Times {
    /// What a histogram in microseconds holds; `None` of an empty one.
    pub fn of(histogram: &Mutex<Histogram<u64>>) -> Option<Self> {
        let histogram = histogram.lock().expect("nobody panics while holding it");
        let ms = |quantile| histogram.value_at_quantile(quantile) as f64 / 1_000.0;
        (!histogram.is_empty()).then(|| Self {
            count: histogram.len(),
            p50_ms: ms(0.5),
            p90_ms: ms(0.9),
            p99_ms: ms(0.99),
            p999_ms: ms(0.999),
            max_ms: histogram.max() as f64 / 1_000.0,
        })
    }
}

/// Messages between pairs.
#[derive(Debug, Serialize)]
pub struct Traffic {
    pub pairs: usize,
    /// Further pairs, in no other figure, whose recipients read nothing.
    pub stalled: usize,
    pub size_bytes: usize,
    /// What was asked for; `None` for as many as go.
    pub rate_per_s: Option<f64>,
    /// Most messages of a sender without an answer.
    pub inflight: usize,
    pub duration_s: f64,
    pub sent: u64,
    pub stored: u64,
    pub delivered: u64,
    pub stored_per_s: f64,
    pub delivered_per_s: f64,
    /// From the intended moment to `ok`.
    pub stored_times: Option<Times>,
    /// From the intended moment to the recipient.
    pub delivered_times: Option<Times>,
    pub refused: u64,
    /// No answer came: stored or not, nobody knows.
    pub unanswered: u64,
    /// Stored, and never delivered.
    pub lost: u64,
    pub duplicated: u64,
    pub out_of_order: u64,
}

/// Connections that do nothing.
#[derive(Debug, Serialize)]
pub struct Idle {
    pub asked: usize,
    pub connected: usize,
    pub connecting_s: f64,
    /// Resident memory that the nodes grew by, over all, per connection.
    pub resident_bytes_per_connection: Option<f64>,
    pub storm: Option<Storm>,
}

/// All connections lost at once.
#[derive(Debug, Serialize)]
pub struct Storm {
    pub back: usize,
    /// Until the last one was back, or patience ended.
    pub all_back_s: f64,
    /// Until 99 % were.
    pub p99_back_ms: f64,
}

/// The result of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<Idle>,
    pub connections_lost: u64,
    /// From a connection's end to the next welcome.
    pub outages: Option<Times>,
    pub servers: Vec<Server>,
    /// Processor time of the load generator itself, seconds.
    pub generator_cpu_s: f64,
    /// The last thing that went wrong.
    pub trouble: Option<String>,
}

/// A counter's value.
pub fn value(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Traffic {
    /// What `stats` says, measured over `duration`.
    pub fn of(stats: &Stats, plan: &super::plan::Plan, duration: Duration) -> Self {
        let (stored, delivered) = (value(&stats.stored), value(&stats.delivered));
        let per_s = |count: u64| count as f64 / duration.as_secs_f64();
        Self {
            pairs: plan.pairs,
            stalled: plan.stalled,
            size_bytes: plan.size,
            rate_per_s: plan.rate,
            inflight: plan.inflight,
            duration_s: duration.as_secs_f64(),
            sent: value(&stats.sent),
            stored,
            delivered,
            stored_per_s: per_s(stored),
            delivered_per_s: per_s(delivered),
            stored_times: Times::of(&stats.stored_us),
            delivered_times: Times::of(&stats.delivered_us),
            refused: value(&stats.refused),
            unanswered: value(&stats.unanswered),
            lost: value(&stats.lost),
            duplicated: value(&stats.duplicated),
            out_of_order: value(&stats.out_of_order),
        }
    }

    fn show(&self, text: &mut String) {
        let rate = self.rate_per_s.map_or_else(|| "as many as go".to_owned(), |rate| format!("{rate}/s"));
        line(text, "asked", format!("{rate}, {} pairs, {} bytes, {} s", self.pairs, self.size_bytes, self.duration_s));
        if self.stalled > 0 {
            line(text, "beside them", format!("{} pairs whose recipients read nothing", self.stalled));
        }
        let per_s = |count: u64, per_s: f64| format!("{count}  {per_s:.0}/s");
        line(text, "stored", per_s(self.stored, self.stored_per_s));
        line(text, "delivered", per_s(self.delivered, self.delivered_per_s));
        let counts = [
            ("refused", self.refused),
            ("unanswered", self.unanswered),
            ("lost", self.lost),
            ("duplicated", self.duplicated),
            ("out of order", self.out_of_order),
        ];
        counts.into_iter().for_each(|(name, count)| line(text, name, count.to_string()));
        times_head(text);
        times(text, "ok", self.stored_times.as_ref());
        times(text, "delivery", self.delivered_times.as_ref());
    }

    /// What must never happen, if it did.
    fn fault(&self) -> Option<String> {
        let faults = [(self.lost, "lost"), (self.duplicated, "duplicated"), (self.out_of_order, "out of order")];
        let faults: Vec<_> = faults.iter().filter(|(count, _)| *count > 0).collect();
        let words: Vec<_> = faults.iter().map(|(count, name)| format!("{count} messages {name}")).collect();
        (!words.is_empty()).then(|| words.join(", "))
    }
}

impl Idle {
    fn show(&self, text: &mut String) {
        line(text, "connected", format!("{} of {} in {:.2} s", self.connected, self.asked, self.connecting_s));
        let memory = self.resident_bytes_per_connection;
        let memory = memory.map_or_else(|| "unknown".to_owned(), |bytes| format!("{:.1} KiB", bytes / 1_024.0));
        line(text, "memory per connection", memory);
        if let Some(storm) = &self.storm {
            line(
                text,
                "after the storm",
                format!(
                    "{} back in {:.2} s, 99 % within {:.2} s",
                    storm.back,
                    storm.all_back_s,
                    storm.p99_back_ms / 1_000.0
                ),
            );
        }
    }
}

impl Report {
    /// The report for people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        if let Some(traffic) = &self.traffic {
            traffic.show(&mut text);
        }
        if let Some(idle) = &self.idle {
            idle.show(&mut text);
        }
        line(&mut text, "connections lost", self.connections_lost.to_string());
        if self.outages.is_some() {
            times_head(&mut text);
            times(&mut text, "reconnect", self.outages.as_ref());
        }
        text.push('\n');
        for server in &self.servers {
            let mib = |bytes: Option<f64>| {
                bytes.map_or_else(|| "?".to_owned(), |bytes| format!("{:.1}", bytes / 1_048_576.0))
            };
            let cpu = server.cpu_s.map_or_else(|| "?".to_owned(), |cpu| format!("{cpu:.1}"));
            let (before, after) = (mib(server.resident_before_bytes), mib(server.resident_after_bytes));
            line(&mut text, &server.address, format!("cpu {cpu} s, resident {before} → {after} MiB"));
        }
        line(&mut text, "load generator", format!("cpu {:.1} s", self.generator_cpu_s));
        if let Some(trouble) = &self.trouble {
            line(&mut text, "last trouble", trouble.clone());
        }
        text.trim_end().to_owned()
    }

    /// What must never happen, if it did.
    pub fn fault(&self) -> Option<String> {
        self.traffic.as_ref().and_then(Traffic::fault)
    }
}

fn line(text: &mut String, name: &str, value: impl AsRef<str>) {
    writeln!(text, "{name:<22} {}", value.as_ref()).expect("writing to memory cannot fail");
}

fn times_head(text: &mut String) {
    let head = ["P50", "P90", "P99", "P99.9", "max"].map(|name| format!("{name:>9}")).concat();
    line(text, "\nms", head);
}

fn times(text: &mut String, name: &str, times: Option<&Times>) {
    let Some(times) = times else { return line(text, name, "none") };
    let cells = [times.p50_ms, times.p90_ms, times.p99_ms, times.p999_ms, times.max_ms];
    line(text, name, cells.map(|ms| format!("{ms:>9.2}")).concat());
}
