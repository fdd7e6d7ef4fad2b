//! The client port: HTTP, and the way from HTTP to a WebSocket.
//!
//! Why an accept loop of our own: streams come from the environment, so the same lines run in the
//! simulator. Invariant: nothing a client does before its session begins costs more than a bounded
//! number of bytes for a bounded time.

mod accept;
mod admin;
mod admission;
mod answer;
mod dev;
mod guard;
mod hooks;
mod page;
mod places;
mod probe;
#[cfg(feature = "real")]
mod profiles;
mod timer;
mod ws;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::routing::{delete, get, post};
use cluster::Cluster;

pub use accept::{HttpLimits, HttpPlace, accept};
pub use admission::{Admission, AdmissionLimits, Refusal};
pub use page::{ASSETS, Asset};

use crate::auth::{AuthConfig, Masked};
use crate::drain::Drain;
use crate::session::{Connections, Node};
use crate::telemetry::{Levels, Seldom};

/// What all requests share.
pub struct App {
    /// What sessions share.
    pub node: Arc<Node>,
    /// The cluster.
    pub cluster: Cluster,
    /// Open WebSockets.
    pub connections: Arc<Connections>,
    /// Who may open further ones.
    pub admission: Arc<Mutex<Admission>>,
    /// Sends them elsewhere.
    pub drain: Arc<Drain>,
    /// When it is logged that there are too many.
    pub overload: Seldom,
    /// When it is logged that some are to come later.
    pub refused: Seldom,
    /// Development mode: the demo page, and `/admin` without a token from this machine.
    pub dev: bool,
    /// Opens `/admin`.
    pub admin_token: Option<Masked>,
    /// How tokens are to be, for those that development mode gives out.
    pub auth: AuthConfig,
    /// What is logged, where this process logs.
    pub levels: Option<Arc<Levels>>,
}

/// Where a request comes from; every request carries one.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// All routes.
pub fn router(app: Arc<App>) -> Router {
    let mut router = Router::new()
        .route("/ws", get(ws::upgrade))
        .route("/health", get(probe::health))
        .route("/ready", get(probe::ready))
        .route("/metrics", get(probe::metrics))
        .route("/admin/status", get(admin::status))
        .route("/admin/trace", get(admin::trace))
        .route("/admin/drain", post(admin::drain))
        .route("/admin/log-level", get(admin::log_level).post(admin::set_log_level))
        .route("/admin/breaker/{state}", post(admin::breaker))
        .route("/admin/revoke", post(admin::revoke))
        .route("/admin/leader/transfer", post(admin::transfer_leader))
        .route("/admin/members/{node}", delete(admin::remove))
        .route("/admin/members/{node}/remove", post(admin::remove))
        .route("/admin/members/{node}/promote", post(admin::promote));
    #[cfg(feature = "real")]
    {
        router = router.merge(profiles::routes());
    }
    if app.node.hooks.is_some() {
        router = router
            .route("/test/latency", post(hooks::latency))
            .route("/test/failure-rate", post(hooks::failure_rate))
            .route("/test/echo", get(hooks::echo));
    }
    if app.dev {
        router = router.route("/dev/token", get(dev::token));
        for asset in page::ASSETS {
            router = router.route(asset.path, get(move || async move { dev::asset(asset) }));
        }
    }
    router.fallback(answer::not_found).with_state(app)
}
