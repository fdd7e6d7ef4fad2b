//! Who may use what is not for clients.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::response::Response;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::page::{is_loopback_authority, is_loopback_origin};
use super::{App, Peer, answer};

/// The token of an `Authorization: Bearer …` header; `Err` when the header is there and holds none.
pub fn bearer(headers: &HeaderMap) -> Option<Result<&str, ()>> {
    let value = headers.get(header::AUTHORIZATION)?;
    let token = value.to_str().ok().and_then(|text| text.split_once(' ')).and_then(|(scheme, token)| {
        let token = token.trim();
        (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
    });
    Some(token.ok_or(()))
}

/// Somebody who may administer this node. A handler that takes one as its first argument refuses all
/// others before it looks at what they ask.
pub struct Operator {
    /// Where the request comes from.
    pub ip: IpAddr,
}

impl FromRequestParts<Arc<App>> for Operator {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Response> {
        let peer = *parts.extensions.get::<Peer>().expect("every request carries where it comes from");
        app.admin(peer, &parts.headers).map_err(|refusal| *refusal)?;
        Ok(Self { ip: peer.0.ip() })
    }
}

impl App {
    /// Whether a request may administer this node: it has the admin token, or it comes from this
    /// machine in development mode, and from no foreign page in a browser on it.
    ///
    /// # Errors
    /// What to answer to others.
    fn admin(&self, peer: Peer, headers: &HeaderMap) -> Result<(), Box<Response>> {
        let given = bearer(headers);
        if let (Some(token), Some(Ok(given))) = (&self.admin_token, given)
            && token.matches(given)
        {
            return Ok(());
        }
        if given.is_none() && self.from_this_machine(peer, headers) {
            return Ok(());
        }
        Err(Box::new(if given.is_some() {
            answer::error(StatusCode::UNAUTHORIZED, "bad_token", "this is not the admin token")
        } else {
            let message = "this needs the admin token as a bearer token; \
                           in development mode, requests from this machine need none";
            answer::error(StatusCode::FORBIDDEN, "forbidden", message)
        }))
    }

    /// Whether a request is one of development mode's own.
    pub fn from_this_machine(&self, peer: Peer, headers: &HeaderMap) -> bool {
        let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or_default());
        self.dev
            && peer.0.ip().to_canonical().is_loopback()
            && text(header::HOST).is_some_and(is_loopback_authority)
            && text(header::ORIGIN).is_none_or(is_loopback_origin)
    }

    /// Lets the demo page of another local node read the answer.
    pub fn readable_to_pages(&self, headers: &HeaderMap, mut response: Response) -> Response {
        if self.dev {
            let origin = headers.get(header::ORIGIN);
            if let Some(origin) = origin.filter(|origin| origin.to_str().is_ok_and(is_loopback_origin)) {
                response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            }
            response.headers_mut().insert(header::VARY, HeaderValue::from_static("origin"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_bearer_tokens() {
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            bearer(&headers).map(|token| token.map(str::to_owned))
        };
        assert_eq!(bearer(&HeaderMap::new()), None);
        assert_eq!(with("Bearer a.b.c"), Some(Ok("a.b.c".into())));
        assert_eq!(with("bearer  a.b.c "), Some(Ok("a.b.c".into())));
        for bad in ["", "Bearer", "Bearer ", "Basic YTpi", "a.b.c"] {
            assert_eq!(with(bad), Some(Err(())), "{bad}");
        }
    }
}
