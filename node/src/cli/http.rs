//! A small HTTP client, enough to ask a node how it is.

use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use bytes::Bytes;
use cluster::env::clock;
use http::{Method, Request, header};
use im_gateway::client::{Address, BadUrl};
use im_gateway::request::exchange;

use super::dial::Dial;

/// A node that has not answered by then is taken for unreachable.
const DEADLINE: Duration = Duration::from_secs(10);
/// More than any answer of a node.
const BODY_MAX_BYTES: usize = 16 << 20;

/// A node's HTTP endpoint.
#[derive(Clone)]
pub struct Endpoint {
    address: Address,
    dial: Dial,
    /// The header `Authorization`.
    authorization: Option<String>,
    /// What answers there, for people.
    who: &'static str,
    deadline: Duration,
}

/// What a node answered.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The whole body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text, for people.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().to_owned()
    }

    /// What the node says is wrong: the words of a JSON error, or the whole text.
    pub fn message(&self) -> String {
        let json: Option<serde_json::Value> = serde_json::from_slice(&self.body).ok();
        let words = json.as_ref().and_then(|json| json["error"]["message"].as_str().or(json["error"].as_str()));
        words.map_or_else(|| self.text(), str::to_owned)
    }
}

impl Endpoint {
    /// The endpoint of `url`: `http://host:port`, also with `ws://`, with TLS, or no scheme at all; a path
    /// is left out. `token` goes along as a bearer token.
    ///
    /// # Errors
    /// A URL that is none of these.
    pub fn new(url: &str, token: Option<String>, dial: &Dial) -> Result<Self, BadUrl> {
        let authorization = token.map(|token| format!("Bearer {token}"));
        Ok(Self { address: Address::parse(url)?, authorization, dial: dial.clone(), who: "a node", deadline: DEADLINE })
    }

    /// With a name and a password, `name:password`, as HTTP's basic authentication.
    pub fn with_password(self, credentials: &str) -> Self {
        Self { authorization: Some(format!("Basic {}", BASE64_STANDARD.encode(credentials))), ..self }
    }

    /// Another program than a node, which may take this long to answer.
    pub fn of(self, who: &'static str, deadline: Duration) -> Self {
        Self { who, deadline, ..self }
    }

    /// Asks for `path`.
    ///
    /// # Errors
    /// A node that cannot be reached or does not answer properly; says which.
    pub async fn request(&self, method: Method, path: &str) -> Result<Answer, String> {
        let Self { who, deadline, .. } = self;
        let base = self.address.base();
        match clock::timeout(*deadline, self.exchange(method, path)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(format!("cannot reach {who} at {base}: {}", innermost(&*error))),
            Err(_) => Err(format!("{who} at {base} did not answer within {deadline:?}")),
        }
    }

    async fn exchange(&self, method: Method, path: &str) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
        let conn = self.dial.connect(&self.address).await?;
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, &self.address.authority);
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let answer = exchange(conn, request.body(Bytes::new())?, BODY_MAX_BYTES).await?;
        Ok(Answer { status: answer.status().as_u16(), body: answer.into_body() })
    }
}

/// What is at the bottom of an error: `connection error` helps nobody.
fn innermost<'a>(error: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    std::iter::successors(Some(error), |error| error.source()).last().unwrap_or(error)
}

/// As a URL's query takes it.
pub fn encode(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// What stands in a URL before its query: `%40` is an @, and a + is a +.
pub fn decode(text: &str) -> String {
    let value = format!("={}", text.replace('+', "%2B").replace('&', "%26"));
    form_urlencoded::parse(value.as_bytes()).map(|(_, value)| value.into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_what_a_url_must_encode() {
        assert_eq!(decode("me:a%40b+c&d=e%25"), "me:a@b+c&d=e%");
    }
}
