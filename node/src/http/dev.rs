//! What exists in development mode only: the demo page, and tokens for whoever asks on this machine.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use cluster::env::clock;
use cluster::id::{DeviceId, UserId};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::json;

use super::page::{Asset, HEADERS};
use super::{App, Peer, answer};
use crate::auth::issue_under;

/// How long a token of the demo page counts, in ms.
const TOKEN_TTL_MS: u64 = 12 * 3_600_000;

/// A file of the demo page.
pub fn asset(asset: Asset) -> Response {
    let mut response = ([(header::CONTENT_TYPE, asset.content_type)], asset.text).into_response();
    for (name, value) in HEADERS {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

/// Whom a token is for.
#[derive(Deserialize)]
pub struct Whom {
    user: String,
    device: Option<String>,
}

/// A token for anybody; only for browsers and programs on this machine.
pub async fn token(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    Query(Whom { user, device }): Query<Whom>,
    headers: HeaderMap,
) -> Response {
    let response = if app.from_this_machine(peer, &headers) {
        issue(&app, &user, device.as_deref())
    } else {
        answer::error(StatusCode::FORBIDDEN, "forbidden", "tokens are given out on this machine only")
    };
    app.readable_to_pages(&headers, response)
}

fn issue(app: &App, user: &str, device: Option<&str>) -> Response {
    let names = UserId::new(user).and_then(|_| device.map(DeviceId::new).transpose());
    if let Err(error) = names {
        return answer::error(StatusCode::BAD_REQUEST, "bad_name", &error.to_string());
    }
    let Some(secret) = app.node.verifier.secret() else {
        let message = "this node checks tokens by public keys, so it cannot sign any";
        return answer::error(StatusCode::NOT_FOUND, "no_secret", message);
    };
    match issue_under(&app.auth, secret.reveal(), user, device, clock::wall_ms() + TOKEN_TTL_MS) {
        Ok(token) => answer::json(StatusCode::OK, &json!({ "token": token })),
        Err(error) => answer::error(StatusCode::INTERNAL_SERVER_ERROR, "internal", &error.to_string()),
    }
}
