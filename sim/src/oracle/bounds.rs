//! G7: at rest, nothing is left of what came and went: tasks and streams are as many as clients and
//! links account for.

use super::{Violation, safety};

/// Tasks of a node without others and clients, for each other node, and for each connection: far more than there
/// are, far fewer than a leak in the course of a run leaves.
const TASKS: usize = 40;
const TASKS_PER_NODE: usize = 6;
const TASKS_PER_CONNECTION: usize = 5;
/// Streams that nodes have among themselves, for each pair; and those that nobody accounts for: of
/// probes, scrapes, and machines that lost power.
const STREAMS_PER_PAIR: usize = 4;
const STREAMS: usize = 60;

/// What there is when everything has come to rest.
#[derive(Debug, Clone, Default)]
pub struct Rest {
    /// Each node's tasks and client connections.
    pub nodes: Vec<(String, usize, usize)>,
    /// Streams in the whole network.
    pub streams: usize,
    /// Clients that run.
    pub clients: usize,
}

/// Whether that is within bounds.
pub fn check(rest: &Rest) -> Vec<Violation> {
    let mut broken = Vec::new();
    let nodes = rest.nodes.len();
    for (node, tasks, connections) in &rest.nodes {
        let most = TASKS + TASKS_PER_NODE * (nodes - 1) + TASKS_PER_CONNECTION * connections;
        if *tasks > most {
            broken.push(safety(format!("G7: {node} has {tasks} tasks at rest, with {connections} connections")));
        }
    }
    if rest.streams > STREAMS + STREAMS_PER_PAIR * nodes * nodes + 2 * rest.clients {
        let (streams, clients) = (rest.streams, rest.clients);
        broken.push(safety(format!("G7: {streams} streams are open at rest, of {nodes} nodes and {clients} clients")));
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaks_show() {
        let rest = Rest { nodes: vec![("n0".into(), 80, 10)], streams: 40, clients: 10 };
        assert!(check(&rest).is_empty());
        // Each node has tasks for each other one.
        let node = |n| (format!("n{n}"), 110, 0);
        let tasks = |nodes| Rest { nodes: (0..nodes).map(node).collect(), ..rest.clone() };
        assert_eq!((check(&tasks(3)).len(), check(&tasks(14)).len()), (3, 0));
        let tasks = Rest { nodes: vec![("n0".into(), 400, 10)], ..rest.clone() };
        assert!(check(&tasks)[0].text.contains("n0 has 400 tasks"));
        let streams = Rest { streams: 500, ..rest };
        assert!(check(&streams)[0].text.contains("500 streams are open"));
    }
}
