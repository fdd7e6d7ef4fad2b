//! Faults on request, and a socket to test: for drills, where the operator allows them (`test_hooks`).

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Query, Request, State};
use axum::response::Response;
use cluster::state::BREAKER_LEVEL;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::guard::Operator;
use super::{App, Peer, answer, ws};
use crate::duration;
use crate::session::TestHooks;

/// See [`latency`].
#[derive(Deserialize)]
pub struct Delay {
    delay: Option<String>,
}

/// Holds this node's deliveries back for so long; `0ms` ends that.
pub async fn latency(_: Operator, State(app): State<Arc<App>>, Query(Delay { delay }): Query<Delay>) -> Response {
    let delay = delay.ok_or_else(|| "give a delay, such as ?delay=600ms".to_owned());
    let delay = delay.and_then(|text| duration::parse(&text)).and_then(|delay| {
        let most = TestHooks::MAX_DELAY;
        if delay <= most { Ok(delay) } else { Err(format!("a delay is at most {}s", most.as_secs())) }
    });
    match delay {
        Ok(delay) => {
            tracing::warn!(delay_ms = delay.as_millis() as u64, "a test holds deliveries back");
            hooks(&app).set_delay(delay);
            answer::json(StatusCode::OK, &json!({ "delay_ms": delay.as_millis() as u64 }))
        }
        Err(error) => answer::error(StatusCode::BAD_REQUEST, "bad_delay", &error),
    }
}

/// See [`failure_rate`].
#[derive(Deserialize)]
pub struct Rate {
    rate: Option<String>,
}

/// Makes this share of the direct messages that are sent by this node's clients fail, as they do at a full
/// inbox; `0` ends that.
pub async fn failure_rate(_: Operator, State(app): State<Arc<App>>, Query(Rate { rate }): Query<Rate>) -> Response {
    let rate = rate.and_then(|text| text.parse::<f64>().ok()).filter(|rate| (0.0..=1.0).contains(rate));
    let Some(rate) = rate else {
        return answer::error(StatusCode::BAD_REQUEST, "bad_rate", "give a share from 0 to 1, such as ?rate=0.02");
    };
    if app.cluster.status().feature_level < BREAKER_LEVEL {
        let message = "a node of this cluster is older than this test: run the newer build on all of them";
        return answer::error(StatusCode::CONFLICT, "refused", message);
    }
    tracing::warn!(rate, "a test makes sends fail");
    hooks(&app).set_failure_rate(rate);
    answer::json(StatusCode::OK, &json!({ "rate": rate }))
}

/// A WebSocket that says everything back.
pub async fn echo(
    _: Operator,
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Response {
    ws::upgrade_to_echo(app, peer, request)
}

fn hooks(app: &App) -> &TestHooks {
    app.node.hooks.as_ref().expect("these routes exist only with hooks")
}
