//! `status`, `member`, `leader` and others: what operators ask of a node.

use std::time::Duration;

use cluster::env::clock;
use cluster::id::UserId;
use http::Method;
use serde_json::Value;

use super::args::{
    AdminTarget, BreakerCommand, DrainArgs, LeaderCommand, LogLevelArgs, MemberCommand, RevokeArgs, StatusArgs,
};
use super::dial::Dial;
use super::failure::{Failure, failed};
use super::http::{Answer, Endpoint, encode};
use super::process::{local_runtime, print};

/// How often it is looked whether clients have left.
const DRAIN_POLL: Duration = Duration::from_millis(100);
/// A node that still leads after so long has handed its leadership to nobody.
const LEADS_NO_LONGER_THAN: Duration = Duration::from_secs(10);
/// A drain in which nobody leaves for so long is stuck. Clients on our SDKs leave within 80 % of their times, which may
/// take a minute; those who ignore theirs stay to the end of it.
const DRAIN_PATIENCE: Duration = Duration::from_secs(30);

/// Asks a node's `path`, and turns what is no success into words for the operator.
pub async fn ask(target: &AdminTarget, method: Method, path: &str) -> Result<Answer, Failure> {
    let dial = Dial::new([&target.url], target.ca.as_deref())?;
    let endpoint = Endpoint::new(&target.url, target.admin_token.clone(), &dial);
    let endpoint = endpoint.map_err(|error| Failure::Usage(format!("--url: {error}")))?;
    let answer = endpoint.request(method, path).await;
    let answer = answer.or_else(|error| failed(format!("{error}; see that it runs, or give another node by --url")))?;
    match answer.status {
        200..=299 => Ok(answer),
        401 | 403 => failed(format!(
            "{} wants the admin token; give --admin-token or IMGW_ADMIN_TOKEN, or start the node with --dev on loopback",
            target.url
        )),
        status => failed(format!("{} answered {status}: {}", target.url, answer.message())),
    }
}

/// Shows the cluster as a node sees it.
///
/// # Errors
/// A node that does not answer.
pub fn status(args: &StatusArgs) -> Result<(), Failure> {
    let answer = local_runtime()?.block_on(ask(&args.target, Method::GET, "/admin/status"))?;
    if args.json {
        return print(&answer.text());
    }
    let status: Value = serde_json::from_slice(&answer.body)
        .or_else(|error| failed(format!("{} answered no status: {error}", args.target.url)))?;
    print(&table(&status))
}

/// Drains a node, and waits until its clients have left.
///
/// # Errors
/// A node that does not answer, or whose clients do not leave.
pub fn drain(args: &DrainArgs) -> Result<(), Failure> {
    let target = &args.target;
    let path = if args.force { "/admin/drain?force=true" } else { "/admin/drain" };
    local_runtime()?.block_on(async {
        let answer = ask(target, Method::POST, path).await?;
        let answer: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        if answer["nowhere_to_go"] == true {
            return print(&format!(
                "no other node takes clients: the {} of {} stay until it stops; it takes no new ones",
                answer["connections"], target.url
            ));
        }
        let begun = clock::now();
        let mut fewest = u64::MAX;
        let mut patience = clock::now() + DRAIN_PATIENCE;
        loop {
            let answer = ask(target, Method::GET, "/admin/status").await?;
            let status: Value = serde_json::from_slice(&answer.body)
                .or_else(|error| failed(format!("{} answered no status: {error}", target.url)))?;
            let left = status["local_sessions"].as_u64().unwrap_or(0);
            let leads = status["leader"] == status["node"];
            if left == 0 && (!leads || begun.elapsed() >= LEADS_NO_LONGER_THAN) {
                let node = field(&status, "node");
                let role = if leads { ", but still leads: no other voter could" } else { "" };
                return print(&format!(
                    "{node} has no clients left{role}; it takes no new ones until it is started anew"
                ));
            }
            if left < fewest {
                (fewest, patience) = (left, clock::now() + DRAIN_PATIENCE);
            } else if clock::now() >= patience {
                return failed(format!(
                    "{left} clients of {} do not leave; see with `status` that another node is up, or stop this one: \
                     its clients then reconnect",
                    target.url
                ));
            }
            clock::sleep(DRAIN_POLL).await;
        }
    })
}

/// Shows what a node logs, or changes it.
///
/// # Errors
/// A node that does not answer, or a filter that is none.
pub fn log_level(args: &LogLevelArgs) -> Result<(), Failure> {
    let (method, path) = match &args.filter {
        Some(filter) => (Method::POST, format!("/admin/log-level?filter={}", encode(filter))),
        None => (Method::GET, "/admin/log-level".to_owned()),
    };
    let answer = local_runtime()?.block_on(ask(&args.target, method, &path))?;
    let answer: Value = serde_json::from_slice(&answer.body)
        .or_else(|error| failed(format!("{} answered no filter: {error}", args.target.url)))?;
    print(&format!("{} logs {}", field(&answer, "node"), field(&answer, "filter")))
}

/// Changes who belongs to the cluster.
///
/// # Errors
/// A node that does not answer, or refuses.
pub fn member(command: &MemberCommand) -> Result<(), Failure> {
    let (args, verb, done) = match command {
        MemberCommand::Remove(args) => (args, "remove", "is no longer a member"),
        MemberCommand::Promote(args) => (args, "promote", "is a voter now"),
    };
    // The id ends up in a path: only what is one may get there.
    let node: cluster::id::NodeId =
        args.node.parse().map_err(|rule| Failure::Usage(format!("{}: {rule}", args.node)))?;
    local_runtime()?.block_on(ask(&args.target, Method::POST, &format!("/admin/members/{node}/{verb}")))?;
    print(&format!("{node} {done}"))
}

/// Opens the breaker, or closes it.
///
/// # Errors
/// A node that does not answer, or refuses.
pub fn breaker(command: &BreakerCommand) -> Result<(), Failure> {
    let (target, verb, done) = match command {
        BreakerCommand::Open(target) => (target, "open", "the breaker is open: messages are stored, and not delivered"),
        BreakerCommand::Close(target) => (target, "close", "the breaker is closed: what was stored is delivered now"),
    };
    local_runtime()?.block_on(ask(target, Method::POST, &format!("/admin/breaker/{verb}")))?;
    print(done)
}

/// Changes who leads.
///
/// # Errors
/// A node that does not answer, or refuses.
pub fn leader(command: &LeaderCommand) -> Result<(), Failure> {
    let LeaderCommand::Transfer(args) = command;
    let to = args.to.as_ref().map(|to| to.parse::<cluster::id::NodeId>()).transpose();
    let to = to.map_err(|rule| Failure::Usage(format!("--to: {rule}")))?;
    let path = to.map_or_else(|| "/admin/leader/transfer".to_owned(), |to| format!("/admin/leader/transfer?to={to}"));
    local_runtime()?.block_on(ask(&args.target, Method::POST, &path))?;
    print("leadership was handed over")
}

/// Makes a user's tokens count no more.
///
/// # Errors
/// A node that does not answer, or refuses.
pub fn revoke(args: &RevokeArgs) -> Result<(), Failure> {
    let user = UserId::new(&args.user).map_err(|rule| Failure::Usage(format!("--user: {rule}")))?;
    let name = encode(user.as_str());
    let before = args.before.map_or_else(String::new, |before| format!("&before={before}"));
    local_runtime()?.block_on(ask(&args.target, Method::POST, &format!("/admin/revoke?user={name}{before}")))?;
    print(&format!("tokens of {user} that were issued before count no more; sessions by them end on every node"))
}

/// A field of the status as text; a dash where a node of another version does not have it.
fn field(value: &Value, name: &str) -> String {
    match &value[name] {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        other => other.to_string(),
    }
}

/// The status for people.
fn table(status: &Value) -> String {
    const COLUMNS: [(&str, &str); 8] = [
        ("NODE", "node"),
        ("ROLE", "role"),
        ("UP", "up"),
        ("GENERATION", "generation"),
        ("SESSIONS", "sessions"),
        ("LINK", "link"),
        ("CLIENTS", "client_url"),
        ("PEERS", "peer_addr"),
    ];
    let leader = &status["leader"];
    let mut rows = vec![COLUMNS.map(|(title, _)| title.to_owned())];
    for node in status["nodes"].as_array().into_iter().flatten() {
        let mut row = COLUMNS.map(|(_, name)| field(node, name));
        if !leader.is_null() && node["node"] == *leader {
            row[1] = "leader".to_owned();
        }
        rows.push(row);
    }
    let ready = status["not_ready"].as_array().is_none_or(Vec::is_empty);
    let reasons: Vec<_> = status["not_ready"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut text = format!(
        "node {}: {}, term {}, log {} committed {} applied {} checkpoint {}, breaker {}\n\n",
        field(status, "node"),
        if ready { "ready".to_owned() } else { format!("not ready ({})", reasons.join(", ")) },
        field(status, "term"),
        field(status, "last_log_index"),
        field(status, "committed_index"),
        field(status, "applied_index"),
        field(status, "checkpoint_index"),
        field(status, "breaker"),
    );
    let widths: [usize; COLUMNS.len()] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    for row in &rows {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    if let Some(totals) = status["totals"].as_object() {
        let totals: Vec<_> = totals.iter().map(|(name, value)| format!("{} {value}", name.replace('_', " "))).collect();
        text.push_str(&format!("\n{}", totals.join(", ")));
    }
    if status["breaker"] == "open" {
        text.push_str("\nthe breaker is open: messages are stored and not delivered (`im-gateway breaker close`)");
    }
    if leader.is_null() {
        text.push_str("\nno leader: messages wait until a majority of the voters is up and connected");
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_is_shown_whatever_is_missing() {
        let status = json!({
            "node": "a", "leader": "b", "term": 3, "not_ready": ["no_quorum"],
            "nodes": [{"node": "a", "role": "voter", "up": true}, {"node": "b", "role": "voter", "up": false}],
            "totals": {"users": 2, "inbox_messages": 7},
        });
        let text = table(&status);
        assert!(text.starts_with("node a: not ready (no_quorum), term 3, log - "), "{text}");
        let rows: Vec<_> = text.lines().filter(|line| line.starts_with("a ") || line.starts_with("b ")).collect();
        assert!(rows[0].contains("voter   yes") && rows[1].contains("leader  no"), "{text}");
        assert!(text.contains("users 2") && text.contains("inbox messages 7"));
        assert!(table(&json!({})).contains("no leader"));
    }
}
