//! What each drill breaks, and how its runbook mends it.

use std::sync::Arc;
use std::time::Duration;

use cluster::env::clock;
use im_gateway::client::Client;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::failure::Failure;
use super::catalog::{FEW_CONNECTIONS, Fault};
use super::nodes::Nodes;
use super::traffic::{Clients, Running, drain};

/// Of the three, the one that is killed.
const VICTIM: usize = 2;
/// The seed's values.
const DELAY: &str = "/test/latency?delay=600ms";
const FAILURES: &str = "/test/failure-rate?rate=0.02";
/// Pairs who chat beside the fault, and how often each writes: 80 messages a second.
const PAIRS: usize = 8;
const EVERY: Duration = Duration::from_millis(100);
/// How often somebody writes to who acknowledges nothing: its window lasts for a minute.
const TO_MUTE: Duration = Duration::from_millis(250);
/// How often a client comes with a bad token.
const INTRUDES: Duration = Duration::from_millis(50);
/// Messages that wait: the alert is at 10,000.
const BACKLOG: usize = 10_500;

/// Whoever is there before anything goes wrong, and goes on whatever does, until this is dropped.
///
/// # Errors
/// Clients that cannot connect.
pub async fn crowd(clients: &Clients) -> Result<Vec<Running>, Failure> {
    clients.chat(PAIRS, EVERY).await
}

/// A fault that is in force. What is dropped ends.
#[derive(Default)]
pub struct Broken {
    fault: Vec<Running>,
    mute: Option<Client>,
    idle: Vec<Client>,
}

impl Broken {
    /// Breaks it; says what was done.
    ///
    /// # Errors
    /// What could not be done.
    pub async fn inject(&mut self, fault: Fault, nodes: &mut Nodes, clients: &Clients) -> Result<String, Failure> {
        Ok(match fault {
            Fault::ServiceDown | Fault::ErrorBudget => {
                let pid = nodes.kill(VICTIM).await;
                format!("kill -9 {pid} (node {})", VICTIM + 1)
            }
            Fault::MessageLoss => {
                nodes.post_all(FAILURES).await?;
                format!("POST {FAILURES} to all nodes")
            }
            Fault::HighLatency => {
                nodes.post_all(DELAY).await?;
                format!("POST {DELAY} to all nodes")
            }
            Fault::AckTimeout => {
                let (mute, running) = clients.mute(TO_MUTE).await?;
                (self.mute, self.fault) = (Some(mute), running);
                "a client takes messages and acknowledges none".to_owned()
            }
            Fault::ConnectionErrors => {
                self.fault.push(intrude(nodes.addresses().swap_remove(0)));
                "a client comes with a bad token, again and again".to_owned()
            }
            Fault::OfflineBacklog => {
                clients.flood("nobody", BACKLOG).await?;
                format!("{BACKLOG} messages for a user who is away")
            }
            Fault::TooManyConnections => {
                let count = FEW_CONNECTIONS + PAIRS;
                self.idle = clients.idle(count).await?;
                format!("{count} more connections to node 1 (the drill's limit is {FEW_CONNECTIONS})")
            }
        })
    }

    /// Mends it as the runbook says; each step is told as it is done.
    ///
    /// # Errors
    /// What could not be done.
    pub async fn mend(
        &mut self,
        fault: Fault,
        nodes: &mut Nodes,
        clients: &Clients,
        tell: &impl Fn(&str) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        match fault {
            Fault::ServiceDown | Fault::ErrorBudget => {
                tell("the node is started again")?;
                nodes.restart(VICTIM).await?;
                tell("it is ready")
            }
            Fault::MessageLoss => {
                nodes.post(0, "/admin/breaker/open").await?;
                tell("im-gateway breaker open: messages are stored, none is delivered")?;
                nodes.post_all("/test/failure-rate?rate=0").await?;
                tell("the cause is gone (rate=0)")?;
                nodes.post(0, "/admin/breaker/close").await?;
                tell("im-gateway breaker close: what was stored is delivered")
            }
            Fault::HighLatency => {
                nodes.post_all("/test/latency?delay=0ms").await?;
                tell("deliveries are no longer held back (delay=0ms)")
            }
            Fault::AckTimeout => {
                self.fault.clear();
                self.fault.extend(self.mute.take().map(drain));
                tell("the client acknowledges")
            }
            Fault::ConnectionErrors => {
                self.fault.clear();
                tell("the client stays away")
            }
            Fault::OfflineBacklog => {
                self.fault.push(clients.reader("nobody").await?);
                tell("the user is back, and reads")
            }
            Fault::TooManyConnections => {
                for client in self.idle.drain(..) {
                    client.close().await;
                }
                tell("the connections are closed")
            }
        }
    }
}

/// Asks for a WebSocket with a token that is none, until it is dropped.
fn intrude(address: String) -> Running {
    let request =
        format!("GET /ws HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer nonsense\r\nConnection: close\r\n\r\n");
    let request: Arc<str> = request.into();
    Running::of(async move {
        let mut beat = clock::interval(INTRUDES);
        loop {
            beat.tick().await;
            // Whatever becomes of it, the next one comes.
            let Ok(mut stream) = TcpStream::connect(&address).await else { continue };
            let _ = stream.write_all(request.as_bytes()).await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    })
}
