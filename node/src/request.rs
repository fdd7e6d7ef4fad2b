//! One HTTP request on a stream of its own: what asks a collector, a key server, another node.

use bytes::Bytes;
use cluster::env::net::BoxConn;
use cluster::env::tasks;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use tracing::Dispatch;
use tracing::instrument::WithSubscriber;

/// Makes a request, which must hold its `Host`, and waits for the whole answer, of at most `max_bytes`.
/// What the libraries below log of it is for nobody: an exported line would cause the next request.
///
/// # Errors
/// A stream that breaks, an answer that is too long or no HTTP.
pub async fn exchange(
    conn: BoxConn,
    request: Request<Bytes>,
    max_bytes: usize,
) -> Result<Response<Bytes>, Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(conn)).await?;
    let driver = tasks::spawn(driver.with_subscriber(Dispatch::none()));
    let answer = async {
        let (head, body) = sender.send_request(request.map(Full::new)).await?.into_parts();
        let body = Limited::new(body, max_bytes).collect().await?.to_bytes();
        Ok(Response::from_parts(head, body))
    }
    .await;
    driver.abort();
    answer
}
