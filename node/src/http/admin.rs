//! What operators ask of a node; any node carries it to the leader.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::response::Response;
use cluster::Admin;
use cluster::env::{clock, tasks};
use cluster::id::{MessageId, NodeId, Pos, UserId};
use cluster::state::Destination;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::guard::Operator;
use super::{App, answer};
use crate::telemetry::{Levels, What};

/// How far ahead of this node's clock a revocation may reach, in ms: clocks differ, but a slip must not
/// lock a user out for good.
const REVOKE_AHEAD_MS: u64 = 3_600_000;

/// The cluster as this node sees it.
pub async fn status(_: Operator, State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let response = answer::json(StatusCode::OK, &app.cluster.status());
    app.readable_to_pages(&headers, response)
}

/// Which message is meant.
#[derive(Deserialize)]
pub struct Mid {
    mid: String,
    /// Its place, if the caller has heard of it.
    seq: Option<u64>,
}

/// What this node knows to have happened to a message.
pub async fn trace(_: Operator, State(app): State<Arc<App>>, Query(Mid { mid, seq }): Query<Mid>) -> Response {
    let mid: MessageId = match mid.parse() {
        Ok(mid) => mid,
        Err(error) => return answer::error(StatusCode::BAD_REQUEST, "bad_mid", &error.to_string()),
    };
    let steps = app.node.trail.of(mid, seq.map(Pos));
    let to = steps.iter().find_map(|step| match &step.what {
        What::Received { to: Some(user), .. } => Some(Destination::User(user.clone())),
        What::Received { group: Some(group), .. } => Some(Destination::Group(group.clone())),
        _ => None,
    });
    let waits = to.and_then(|to| app.cluster.whereabouts(&to, &mid));
    let waits = waits.map(|at| json!({ "seq": at.seq, "devices": at.devices }));
    answer::json(StatusCode::OK, &json!({ "node": app.node.name, "steps": steps, "waits": waits }))
}

/// See [`drain`].
#[derive(Deserialize)]
pub struct HowToDrain {
    #[serde(default)]
    force: bool,
}

/// Begins to send this node's clients elsewhere; `/ready` and the status tell how far that is.
pub async fn drain(
    operator: Operator,
    State(app): State<Arc<App>>,
    Query(HowToDrain { force }): Query<HowToDrain>,
) -> Response {
    let nowhere = app.cluster.elsewhere().is_empty();
    if !force && nowhere {
        let message = "no other node is up that takes clients and does not drain itself: this one's would have nowhere to \
                       go. Start another one, or say that you mean it (`im-gateway drain --force`, `?force=true`)";
        return answer::error(StatusCode::CONFLICT, "nowhere_to_go", message);
    }
    tracing::info!(remote_addr = %operator.ip, "an operator drains this node");
    let drain = app.drain.clone();
    tasks::spawn(async move { drain.run().await });
    answer::json(StatusCode::ACCEPTED, &json!({ "connections": app.connections.len(), "nowhere_to_go": nowhere }))
}

/// What this node logs.
pub async fn log_level(_: Operator, State(app): State<Arc<App>>) -> Response {
    match levels(&app) {
        Ok(levels) => filter_in_force(&app, levels),
        Err(refusal) => *refusal,
    }
}

/// See [`set_log_level`].
#[derive(Deserialize)]
pub struct Filter {
    /// A level, or a filter such as `info,cluster=debug`.
    filter: Option<String>,
}

/// Changes what this node logs, until it ends.
pub async fn set_log_level(
    operator: Operator,
    State(app): State<Arc<App>>,
    Query(Filter { filter }): Query<Filter>,
) -> Response {
    let levels = match levels(&app) {
        Ok(levels) => levels,
        Err(refusal) => return *refusal,
    };
    let Some(filter) = filter else {
        return answer::error(StatusCode::BAD_REQUEST, "bad_filter", "give a filter, such as ?filter=debug");
    };
    // Before, because the new filter may leave it out.
    tracing::info!(filter, remote_addr = %operator.ip, "an operator changes what is logged");
    match levels.set(&filter) {
        Ok(()) => filter_in_force(&app, levels),
        Err(error) => answer::error(StatusCode::BAD_REQUEST, "bad_filter", &error.to_string()),
    }
}

fn levels(app: &App) -> Result<&Levels, Box<Response>> {
    let none = || Box::new(answer::error(StatusCode::CONFLICT, "refused", "this process writes no log of its own"));
    app.levels.as_deref().ok_or_else(none)
}

fn filter_in_force(app: &App, levels: &Levels) -> Response {
    answer::json(StatusCode::OK, &json!({ "node": app.node.name, "filter": levels.filter() }))
}

/// Where leadership is to go.
#[derive(Deserialize)]
pub struct To {
    /// A voter; without one, whoever is furthest.
    to: Option<String>,
}

/// Moves leadership.
pub async fn transfer_leader(operator: Operator, State(app): State<Arc<App>>, Query(To { to }): Query<To>) -> Response {
    match to.map(|to| node(&to)).transpose() {
        Ok(to) => carry_out(&app, operator, Admin::TransferLeader(to)).await,
        Err(refusal) => *refusal,
    }
}

/// Opens the breaker, or closes it.
pub async fn breaker(operator: Operator, State(app): State<Arc<App>>, Path(state): Path<String>) -> Response {
    match state.as_str() {
        "open" => carry_out(&app, operator, Admin::SetBreaker { open: true }).await,
        "close" => carry_out(&app, operator, Admin::SetBreaker { open: false }).await,
        _ => answer::error(
            StatusCode::NOT_FOUND,
            "not_found",
            "the breaker is opened by /admin/breaker/open, and closed by /admin/breaker/close",
        ),
    }
}

/// Whose tokens are to be revoked.
#[derive(Deserialize)]
pub struct Whose {
    user: String,
    /// Those issued before this time, in seconds since the Unix epoch as in `iat`; without it, up to now.
    before: Option<u64>,
}

/// Makes a user's tokens count no more, if they were issued before a time. Sessions by them end.
pub async fn revoke(
    operator: Operator,
    State(app): State<Arc<App>>,
    Query(Whose { user, before }): Query<Whose>,
) -> Response {
    let Ok(user) = UserId::new(&user) else {
        let message = "a user is 1 to 128 bytes without control characters";
        return answer::error(StatusCode::BAD_REQUEST, "bad_user", message);
    };
    let now_ms = clock::wall_ms();
    let before_ms = before.map_or(now_ms, |before_s| before_s.saturating_mul(1000));
    if before_ms > now_ms.saturating_add(REVOKE_AHEAD_MS) {
        let message = "`before` is more than an hour ahead, and a revocation cannot be taken back: \
                       it is in seconds since the Unix epoch";
        return answer::error(StatusCode::BAD_REQUEST, "bad_time", message);
    }
    carry_out(&app, operator, Admin::Revoke { user, before_ms }).await
}

/// Takes a node out of the cluster.
pub async fn remove(operator: Operator, State(app): State<Arc<App>>, Path(name): Path<String>) -> Response {
    match node(&name) {
        Ok(node) => carry_out(&app, operator, Admin::Remove(node)).await,
        Err(refusal) => *refusal,
    }
}

/// Makes a learner a voter.
pub async fn promote(operator: Operator, State(app): State<Arc<App>>, Path(name): Path<String>) -> Response {
    match node(&name) {
        Ok(node) => carry_out(&app, operator, Admin::Promote(node)).await,
        Err(refusal) => *refusal,
    }
}

fn node(name: &str) -> Result<NodeId, Box<Response>> {
    name.parse().map_err(|error: cluster::id::InvalidName| {
        Box::new(answer::error(StatusCode::BAD_REQUEST, "bad_node", &error.to_string()))
    })
}

async fn carry_out(app: &App, operator: Operator, command: Admin) -> Response {
    tracing::info!(command = ?command, remote_addr = %operator.ip, "an operator's command");
    match app.cluster.admin(command).await {
        Ok(()) => answer::json(StatusCode::OK, &json!({})),
        Err(error) => answer::error(StatusCode::CONFLICT, "refused", &error.to_string()),
    }
}
