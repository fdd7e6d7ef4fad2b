//! What watches a node: health, readiness, metrics.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde_json::json;

use super::{App, answer};

/// The process can serve.
pub async fn health(State(app): State<Arc<App>>) -> Response {
    let health = json!({ "status": "ok", "node": app.node.name, "version": env!("CARGO_PKG_VERSION") });
    answer::json(StatusCode::OK, &health)
}

/// The node takes new clients, or why not.
pub async fn ready(State(app): State<Arc<App>>) -> Response {
    let reasons = app.cluster.not_ready();
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    answer::json(status, &json!({ "ready": reasons.is_empty(), "reasons": reasons, "node": app.node.name }))
}

/// Prometheus' text format.
pub async fn metrics(State(app): State<Arc<App>>) -> Response {
    let text = app.node.metrics.scrape(&app.cluster.status());
    ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response()
}
