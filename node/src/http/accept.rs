//! Takes connections from the environment and speaks HTTP/1.1 on them.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use cluster::env::net::{BoxConn, Distrust, Listener};
use cluster::env::{clock, tasks};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::sync::watch;
use tower::ServiceExt;

use super::Peer;
use super::places::{Asked, Place, Places};
use super::timer::ClockTimer;
use crate::telemetry::{ConnectionError, Metrics, Seldom};

/// A request's head must come within this; idle connections end after it.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// Largest head of a request, in bytes; hyper takes no less.
const HEAD_BYTES: usize = 16 << 10;
/// Most headers of a request.
const HEAD_FIELDS: usize = 64;
/// Time for the last answer of a stream that has to end for others.
const LAST_ANSWER: Duration = Duration::from_secs(1);
/// After a failed accept; doubled each time, up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What streams are held to.
#[derive(Debug, Clone, Copy)]
pub struct HttpLimits {
    /// A stream fails when what was written stays unacknowledged by the other system for so long.
    pub user_timeout: Duration,
    /// Connections that speak HTTP at the same time; when there are so many, those that wait for no answer give way.
    pub connections: usize,
}

/// A request's hold on its stream's place among those that are no WebSocket. Clones are one hold.
#[derive(Clone)]
pub struct HttpPlace(#[expect(dead_code, reason = "held for as long as the stream is busy")] Arc<Asked>);

/// Serves `router` on what `listener` accepts, until `stop` changes.
pub async fn accept(
    mut listener: Box<dyn Listener>,
    router: Router,
    limits: HttpLimits,
    metrics: Arc<Metrics>,
    mut stop: watch::Receiver<bool>,
) {
    let places = Places::new(limits.connections);
    let (full, unsecured) = (Seldom::default(), Arc::new(Seldom::default()));
    let timer = ClockTimer::new();
    let mut pause = PAUSE_MIN;
    loop {
        if places.are_full() && full.hit() {
            let connections = limits.connections;
            tracing::warn!(connections, "no more HTTP connections: those that wait for no answer are ended for others");
        }
        let place = tokio::select! {
            biased;
            _ = stop.changed() => return,
            place = places.take(|| metrics.connection_error(ConnectionError::Overload)) => place,
        };
        let accepted = tokio::select! {
            biased;
            _ = stop.changed() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(conn) => {
                pause = PAUSE_MIN;
                let peer = conn.peer_addr();
                let served = serve(conn, router.clone(), limits, timer.clone(), place);
                let (metrics, unsecured) = (metrics.clone(), unsecured.clone());
                tasks::spawn(async move {
                    if let Some(why) = served.await {
                        metrics.connection_error(ConnectionError::Tls);
                        if unsecured.hit() {
                            let (event, error_type) = ("connection_error", ConnectionError::Tls.label());
                            tracing::warn!(event, error_type, remote_addr = %peer.ip(), reason = %why, "not secured");
                        }
                    }
                });
            }
            Err(error) => {
                // Out of file handles, most likely: waiting is all that helps.
                metrics.connection_error(ConnectionError::Accept);
                tracing::warn!(event = "connection_error", error_type = "accept_failed", %error, "cannot accept");
                clock::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

/// Why a connection could not be secured, if that is what is wrong with it.
fn distrust(error: &hyper::Error) -> Option<Distrust> {
    Distrust::of(error.source()?.downcast_ref::<io::Error>()?)
}

/// Serves one connection to its end; why it could not be secured, if that is what ended it.
async fn serve(
    conn: BoxConn,
    router: Router,
    limits: HttpLimits,
    timer: ClockTimer,
    place: Arc<Place>,
) -> Option<Distrust> {
    let peer = Peer(conn.peer_addr());
    // A stream that died since it was accepted shows itself at the first read.
    let _ = conn.set_nodelay(true);
    let _ = conn.set_user_timeout(limits.user_timeout);
    let asking = place.clone();
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let router = router.clone();
        let mut request = request.map(Body::new);
        let asked = HttpPlace(Arc::new(asking.ask()));
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(asked.clone());
        async move {
            let answer = router.oneshot(request).await.unwrap_or_else(|never| match never {});
            drop(asked);
            Ok::<_, Infallible>(answer)
        }
    });
    let served = http1::Builder::new()
        .timer(timer)
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEAD_FIELDS)
        .serve_connection(TokioIo::new(conn), service)
        .with_upgrades();
    let mut served = pin!(served);
    let served = tokio::select! {
        served = served.as_mut() => served,
        () = place.lost() => {
            if !place.has_asked() {
                return None;
            }
            // What was answered may not be written yet.
            served.as_mut().graceful_shutdown();
            clock::timeout(LAST_ANSWER, served).await.unwrap_or(Ok(()))
        }
    };
    let error = served.err()?;
    let distrust = distrust(&error);
    if distrust.is_none() {
        tracing::debug!(remote_addr = %peer.0.ip(), %error, "an HTTP connection ended early");
    }
    distrust
}
