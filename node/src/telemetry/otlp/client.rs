//! Requests to the collector, over the streams that everything else here uses.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cluster::env::{Net, clock};
use http::{HeaderValue, Request, Response, Uri, header};
use opentelemetry_http::{Bytes, HttpClient, HttpError};
use tokio::runtime::Handle;
use tracing::Dispatch;
use tracing::instrument::WithSubscriber;

use crate::client::Address;
use crate::env::outward;
use crate::request::exchange;
use crate::telemetry::Seldom;

/// How long one request may take.
const REQUEST_WITHIN: Duration = Duration::from_secs(5);
/// More than any answer of a collector.
const ANSWER_MAX_BYTES: usize = 1 << 20;

/// Makes requests to one collector.
pub struct Client {
    base: String,
    authority: String,
    net: Arc<dyn Net>,
    runtime: Handle,
    trouble: Seldom,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("base", &self.base).finish_non_exhaustive()
    }
}

impl Client {
    /// For the collector at this URL.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(base: &str, runtime: Handle) -> Result<Self, String> {
        let Address { authority, tls, .. } = Address::parse(base).map_err(|error| error.to_string())?;
        let net = outward(tls).map_err(|error| error.to_string())?;
        Ok(Self { base: base.to_owned(), authority, net, runtime, trouble: Seldom::default() })
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let exchange = ask(self.net.clone(), self.authority.clone(), request);
        // Whoever waits for this is no task of the runtime. And what the request makes libraries log is for
        // nobody: it would be exported, and so cause the next request.
        let answer = async { clock::timeout(REQUEST_WITHIN, exchange).await }.with_subscriber(Dispatch::none());
        let answer = self.runtime.spawn(answer).await?;
        let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {REQUEST_WITHIN:?}").into()));
        let trouble = match &answer {
            Ok(answer) if answer.status().is_success() => return Ok(answer.clone()),
            Ok(answer) => answer.status().to_string(),
            Err(error) => error.to_string(),
        };
        if self.trouble.hit() {
            tracing::warn!(
                collector = self.base,
                error = trouble,
                "telemetry is not taken: what cannot wait is dropped"
            );
        }
        answer
    }
}

async fn ask(net: Arc<dyn Net>, authority: String, mut request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let conn = net.connect(&authority).await?;
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).parse::<Uri>()?;
    *request.uri_mut() = path;
    // Nothing that the environment adds: the node's configuration says all.
    let kind = request.headers_mut().remove(header::CONTENT_TYPE);
    let headers = [(header::HOST, Some(HeaderValue::from_str(&authority)?)), (header::CONTENT_TYPE, kind)];
    *request.headers_mut() = headers.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    exchange(conn, request, ANSWER_MAX_BYTES).await
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;

    use cluster::env::net::{BoxConn, Listener};
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::telemetry::logs::{Line, LineSink, Tap};

    /// Logs, as libraries do.
    struct Loud;

    #[async_trait]
    impl Net for Loud {
        async fn listen(&self, _addr: &str) -> io::Result<Box<dyn Listener>> {
            Err(io::ErrorKind::Unsupported.into())
        }
        async fn connect(&self, addr: &str) -> io::Result<BoxConn> {
            tracing::info!(target: "a_library", "connects to {addr}");
            Err(io::ErrorKind::ConnectionRefused.into())
        }
    }

    #[derive(Default)]
    struct Taken(Mutex<Vec<Line>>);

    impl LineSink for Taken {
        fn take(&self, line: Line) {
            self.0.lock().unwrap().push(line);
        }
    }

    #[tokio::test]
    async fn what_a_request_makes_libraries_log_is_not_exported() {
        let (tap, taken) = (Tap::default(), Arc::new(Taken::default()));
        tap.open(Some(taken.clone()));
        let _log = tracing::subscriber::set_default(tracing_subscriber::registry().with(tap));
        let client = Client::new("http://collector:4318", Handle::current()).expect("a URL");
        let client = Client { net: Arc::new(Loud), ..client };
        let request = Request::post("http://collector:4318/v1/logs").body(Bytes::new()).expect("a request");
        let refused = client.send_bytes(request).await.expect_err("nobody is there");
        assert!(refused.to_string().contains("refused"), "{refused}");
        tracing::info!(target: "another", "but what others say is");
        let taken = taken.0.lock().unwrap();
        assert_eq!(taken.iter().map(|line| &line.fields["message"]).collect::<Vec<_>>(), ["but what others say is"]);
    }
}
