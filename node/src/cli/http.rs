//! A small HTTP client, enough to ask a node how it is.

use std::time::Duration;

use bytes::Bytes;
use cluster::env::clock;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use im_gateway::client::{Address, BadUrl};
use tokio::net::TcpStream;

/// A node that has not answered by then is taken for unreachable.
const DEADLINE: Duration = Duration::from_secs(10);
/// More than any answer of a node.
const BODY_MAX_BYTES: usize = 16 << 20;

/// A node's HTTP endpoint.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// `host:port`.
    authority: String,
    token: Option<String>,
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
    /// The endpoint of `url`: `http://host:port`, also with `ws://` or no scheme at all; a path
    /// is left out. `token` goes along as a bearer token.
    ///
    /// # Errors
    /// A URL that is none of these.
    pub fn new(url: &str, token: Option<String>) -> Result<Self, BadUrl> {
        Ok(Self { authority: Address::parse(url)?.authority, token, who: "a node", deadline: DEADLINE })
    }

    /// Another program than a node, which may take this long to answer.
    pub fn of(self, who: &'static str, deadline: Duration) -> Self {
        Self { who, deadline, ..self }
    }

    /// `host:port`.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Asks for `path`.
    ///
    /// # Errors
    /// A node that cannot be reached or does not answer properly; says which.
    pub async fn request(&self, method: Method, path: &str) -> Result<Answer, String> {
        let Self { authority, who, deadline, .. } = self;
        match clock::timeout(*deadline, self.exchange(method, path)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(format!("cannot reach {who} at http://{authority}: {error}")),
            Err(_) => Err(format!("{who} at http://{authority} did not answer within {deadline:?}")),
        }
    }

    async fn exchange(&self, method: Method, path: &str) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(&self.authority).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, &self.authority);
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let answer = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), BODY_MAX_BYTES).collect().await?.to_bytes();
        driver.abort();
        Ok(Answer { status, body })
    }
}

/// As a URL's query takes it.
pub fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_encoded() {
        assert_eq!(encode("a{b=\"c\"}[1m] + 1"), "a%7Bb%3D%22c%22%7D%5B1m%5D%20%2B%201");
    }
}
