//! From HTTP to a WebSocket.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use cluster::env::net::BoxConn;
use cluster::env::{clock, tasks};
use cluster::session::SessionSpec;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::admission::{Admitted, Refused};
use super::guard::bearer;
use super::{App, HttpPlace, Peer, answer};
use crate::auth::{AuthError, Identity};
use crate::protocol::{CloseCode, SUBPROTOCOL};
use crate::session::{Opened, echo, run};
use crate::telemetry::ConnectionError;

/// `GET /ws`: checks the token if there is one, then whether it is a WebSocket, then the subprotocol.
pub async fn upgrade(State(app): State<Arc<App>>, Extension(peer): Extension<Peer>, mut request: Request) -> Response {
    let admitted = if asks_for_websocket(request.headers()) {
        match Admitted::enter(&app.admission, peer.0.ip(), request.headers(), clock::now()) {
            Ok(admitted) => Some(admitted),
            Err(Refused { why, wait, address }) => {
                app.node.metrics.connection_refused(why);
                if app.refused.hit() {
                    let (event, reason) = ("connection_error", why.label());
                    tracing::warn!(event, error_type = "refused", reason, remote_addr = %address, "told to come later");
                }
                return why.answer(wait);
            }
        }
    } else {
        None
    };
    let identity = match identity(&app, peer, request.headers()).await {
        Ok(identity) => identity,
        Err(refusal) => return *refusal,
    };
    let (on_upgrade, response) = match switch(&mut request) {
        Ok(switched) => switched,
        Err(refusal) => return *refusal,
    };
    let http_place = request.extensions_mut().remove::<HttpPlace>();
    tasks::spawn(async move {
        serve(app, peer, identity, on_upgrade, http_place).await;
        drop(admitted);
    });
    response
}

/// A WebSocket for a test, on which everything is said back. It stays one of the HTTP connections.
pub fn upgrade_to_echo(app: Arc<App>, peer: Peer, mut request: Request) -> Response {
    let (on_upgrade, response) = match switch(&mut request) {
        Ok(switched) => switched,
        Err(refusal) => return *refusal,
    };
    let http_place = request.extensions_mut().remove::<HttpPlace>();
    tasks::spawn(async move {
        if let Ok(Some((conn, early))) = on_upgrade.await.map(stream) {
            echo(&app.node, Opened { conn, early, identity: None, peer: peer.0 }).await;
        }
        drop(http_place);
    });
    response
}

/// The stream to be, and the answer that makes it a WebSocket; or why it is none.
fn switch(request: &mut Request) -> Result<(OnUpgrade, Response), Box<Response>> {
    let headers = request.headers();
    if !asks_for_websocket(headers) {
        return Err(Box::new(upgrade_required("clients connect to this address by WebSocket")));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Box::new(upgrade_required("WebSocket version 13 is needed")));
    }
    let Some(key) = headers.get(header::SEC_WEBSOCKET_KEY).filter(|key| key.len() == 24) else {
        let message = "Sec-WebSocket-Key is missing or malformed";
        return Err(Box::new(answer::error(StatusCode::BAD_REQUEST, "bad_request", message)));
    };
    let accept = derive_accept_key(key.as_bytes());
    let Ok(offered) = subprotocol(headers) else {
        let message = format!("the subprotocol must be {SUBPROTOCOL}");
        return Err(Box::new(answer::error(StatusCode::BAD_REQUEST, "unknown_subprotocol", &message)));
    };
    let Some(on_upgrade) = request.extensions_mut().remove::<OnUpgrade>() else {
        return Err(Box::new(upgrade_required("this connection cannot become a WebSocket")));
    };
    Ok((on_upgrade, switching(&accept, offered)))
}

/// Whom the header's token names, if there is one.
async fn identity(app: &App, peer: Peer, headers: &HeaderMap) -> Result<Option<Identity>, Box<Response>> {
    let verifier = &app.node.verifier;
    let checked = match bearer(headers) {
        None => return Ok(None),
        Some(Ok(token)) => match verifier.verify(token) {
            Err(error) if error.is_about_keys() && verifier.look_again().await => verifier.verify(token),
            checked => checked,
        },
        Some(Err(())) => Err(AuthError::Malformed),
    };
    let checked = checked.and_then(|identity| {
        let before_ms = app.cluster.revoked_before(&identity.user);
        if identity.is_revoked(before_ms) { Err(AuthError::Revoked) } else { Ok(identity) }
    });
    checked.map(Some).map_err(|error| {
        app.node.auth_failed(Some(peer.0), &error);
        let mut response = answer::error(StatusCode::UNAUTHORIZED, "bad_token", &error.to_string());
        let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        Box::new(response)
    })
}

/// Whether a comma-separated header holds a word.
fn has_word(headers: &HeaderMap, name: header::HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(word))
}

fn asks_for_websocket(headers: &HeaderMap) -> bool {
    has_word(headers, header::CONNECTION, "upgrade") && has_word(headers, header::UPGRADE, "websocket")
}

/// Whether our subprotocol was offered; an error when only others were.
fn subprotocol(headers: &HeaderMap) -> Result<bool, ()> {
    if !headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL) {
        return Ok(false);
    }
    if has_word(headers, header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL) { Ok(true) } else { Err(()) }
}

fn upgrade_required(message: &str) -> Response {
    let mut response = answer::error(StatusCode::UPGRADE_REQUIRED, "upgrade_required", message);
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    response
}

fn switching(accept: &str, offered: bool) -> Response {
    let mut response = (StatusCode::SWITCHING_PROTOCOLS, Body::empty()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    let accept = HeaderValue::from_str(accept).expect("base64 is good in a header");
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if offered {
        // Only what was offered may be named: browsers fail the connection otherwise.
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    }
    response
}

/// The connection's task, from the moment that HTTP is done with it.
async fn serve(
    app: Arc<App>,
    peer: Peer,
    identity: Option<Identity>,
    on_upgrade: OnUpgrade,
    http_place: Option<HttpPlace>,
) {
    let (conn, early) = match on_upgrade.await.map(stream) {
        Ok(Some(stream)) => stream,
        Ok(None) | Err(_) => return app.node.metrics.connection_error(ConnectionError::Io),
    };
    let place = app.connections.enter();
    // Who gets no place is told so, and stays one of the HTTP connections for that long.
    let http_place = http_place.filter(|_| place.is_none());
    if place.is_none() && app.overload.hit() {
        let connections = app.connections.len();
        tracing::warn!(
            connections,
            "no more connections: clients are sent away (1013); see `limits.connections` and the limit on open files"
        );
    }
    let opened = Opened { conn, early, identity, peer: peer.0 };
    let node = app.node.clone();
    let cluster = app.cluster.clone();
    drop(app);
    let open = move |spec: SessionSpec, identity: &Identity| {
        if !cluster.not_ready().is_empty() {
            // A node that cannot serve sends clients elsewhere at once, rather than let them wait.
            return Err(CloseCode::Unavailable);
        }
        if identity.is_revoked(cluster.revoked_before(&spec.user)) {
            return Err(CloseCode::BadToken);
        }
        Ok((cluster.open(spec), cluster.limits().inflight))
    };
    run(node, opened, place, open).await;
    drop(http_place);
}

/// The bare stream and what was read of it: nothing of HTTP stays in memory.
fn stream(upgraded: Upgraded) -> Option<(BoxConn, Bytes)> {
    let parts = upgraded.downcast::<TokioIo<BoxConn>>().ok()?;
    Some((parts.io.into_inner(), parts.read_buf))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn knows_a_websocket_request() {
        assert!(asks_for_websocket(&headers(&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")])));
        assert!(!asks_for_websocket(&headers(&[("connection", "keep-alive"), ("upgrade", "websocket")])));
        assert!(!asks_for_websocket(&headers(&[("connection", "upgrade"), ("upgrade", "h2c")])));
        assert!(!asks_for_websocket(&HeaderMap::new()));
    }

    #[test]
    fn takes_our_subprotocol_or_none() {
        assert_eq!(subprotocol(&HeaderMap::new()), Ok(false));
        assert_eq!(subprotocol(&headers(&[("sec-websocket-protocol", "chat, imgw.v1.json")])), Ok(true));
        let two = [("sec-websocket-protocol", "chat"), ("sec-websocket-protocol", "imgw.v1.json")];
        assert_eq!(subprotocol(&headers(&two)), Ok(true));
        assert_eq!(subprotocol(&headers(&[("sec-websocket-protocol", "imgw.v2.json")])), Err(()));
        assert_eq!(subprotocol(&headers(&[("sec-websocket-protocol", "")])), Err(()));
    }
}
