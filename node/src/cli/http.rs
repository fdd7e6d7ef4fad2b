//! A small HTTP client, enough to ask a node how it is.

use std::time::Duration;

use bytes::Bytes;
use cluster::env::clock;
use http::{Method, Request, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
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
}

impl Endpoint {
    /// The endpoint of `url`: `http://host:port`, also with `ws://` or no scheme at all; a path
    /// is left out. `token` goes along as a bearer token.
    ///
    /// # Errors
    /// A URL that is none of these.
    pub fn new(url: &str, token: Option<String>) -> Result<Self, String> {
        let wrong = || format!("\"{url}\" is not a node's URL such as http://127.0.0.1:8080");
        let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let uri: Uri = full.parse().map_err(|_| wrong())?;
        match uri.scheme_str() {
            Some("http" | "ws") => {}
            Some("https" | "wss") => {
                return Err(format!("\"{url}\": TLS is not supported by this command; use http://"));
            }
            _ => return Err(wrong()),
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(wrong)?;
        Ok(Self { authority: format!("{host}:{}", uri.port_u16().unwrap_or(80)), token })
    }

    /// Asks for `path`.
    ///
    /// # Errors
    /// A node that cannot be reached or does not answer properly; says which.
    pub async fn request(&self, method: Method, path: &str) -> Result<Answer, String> {
        match clock::timeout(DEADLINE, self.exchange(method, path)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(format!("cannot reach a node at http://{}: {error}", self.authority)),
            Err(_) => Err(format!("the node at http://{} did not answer within {DEADLINE:?}", self.authority)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let authority = |url| Endpoint::new(url, None).map(|endpoint| endpoint.authority);
        assert_eq!(authority("http://127.0.0.1:8080").as_deref(), Ok("127.0.0.1:8080"));
        assert_eq!(authority("ws://n1:1/ws").as_deref(), Ok("n1:1"));
        assert_eq!(authority("n1:1").as_deref(), Ok("n1:1"));
        assert_eq!(authority("http://n1").as_deref(), Ok("n1:80"));
        assert_eq!(authority("http://[::1]:8080/").as_deref(), Ok("[::1]:8080"));
        for wrong in ["", "http://", "https://n1", "ftp://n1", "http://a b"] {
            assert!(authority(wrong).is_err(), "{wrong}");
        }
    }
}
