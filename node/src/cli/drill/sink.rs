//! Stands for Slack and PagerDuty, and keeps what they are told.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use cluster::env::clock::{self, Instant};
use cluster::sync::lock;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::super::failure::{Failure, failed};

/// One notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// When it came.
    pub at: Instant,
    /// A Slack channel, or `PagerDuty`.
    pub channel: String,
    /// `FIRING`, or `RESOLVED`.
    pub resolved: bool,
    /// What it says, of one alert or of a group of them.
    pub text: String,
}

/// See the module. Clones are the same.
#[derive(Clone)]
pub struct Sink {
    pub port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    told: Mutex<Vec<Told>>,
    news: Notify,
}

impl Sink {
    /// Listens on the loopback, for as long as the runtime lives.
    ///
    /// # Errors
    /// When the system gives no port.
    pub async fn start() -> Result<Self, Failure> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.or_else(|error| failed(format!("cannot listen on the loopback: {error}")))?;
        let port = listener.local_addr().map_or(0, |addr| addr.port());
        let shared = Arc::new(Shared::default());
        let router =
            Router::new().route("/slack", post(slack)).route("/pagerduty", post(pagerduty)).with_state(shared.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { port, shared })
    }

    /// Everything that came, oldest first.
    pub fn told(&self) -> Vec<Told> {
        lock(&self.shared.told).clone()
    }

    /// The first notification of this kind about an alert that came after `since`.
    pub async fn wait(&self, alert: &str, resolved: bool, since: Instant) -> Told {
        loop {
            let news = self.shared.news.notified();
            let of = |told: &Told| told.resolved == resolved && told.at > since && told.text.contains(alert);
            if let Some(told) = self.told().into_iter().find(of) {
                return told;
            }
            news.await;
        }
    }
}

impl Shared {
    fn keep(&self, channel: &str, resolved: bool, text: &str) {
        let told = Told { at: clock::now(), channel: channel.to_owned(), resolved, text: text.to_owned() };
        lock(&self.told).push(told);
        self.news.notify_one();
    }
}

async fn slack(State(shared): State<Arc<Shared>>, Json(body): Json<Value>) -> Json<Value> {
    let title = body["attachments"][0]["title"].as_str().unwrap_or_default();
    shared.keep(body["channel"].as_str().unwrap_or_default(), title.starts_with("RESOLVED"), title);
    Json(json!({ "ok": true }))
}

async fn pagerduty(State(shared): State<Arc<Shared>>, Json(body): Json<Value>) -> Json<Value> {
    let text = body["payload"]["summary"].as_str().unwrap_or_default();
    shared.keep("PagerDuty", body["event_action"] == "resolve", text);
    Json(json!({ "status": "success" }))
}
