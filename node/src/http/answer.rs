//! Answers in JSON.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

/// `value` as JSON.
pub fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let body = serde_json::to_string(value).expect("what we answer is representable in JSON");
    let json = HeaderValue::from_static("application/json");
    (status, [(header::CONTENT_TYPE, json), (header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], body)
        .into_response()
}

/// An error, as in the frames: a word for programs, a sentence for people.
pub fn error(status: StatusCode, code: &str, message: &str) -> Response {
    json(status, &serde_json::json!({ "error": { "code": code, "message": message } }))
}

/// There is nothing at this path.
pub async fn not_found() -> Response {
    error(StatusCode::NOT_FOUND, "not_found", "there is nothing here; clients connect to /ws")
}
