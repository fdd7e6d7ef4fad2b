//! A bot on the client SDK: it answers every direct message of others with the same body.
//!
//! ```sh
//! cargo run --release                                            # a node, in another terminal
//! cargo run --release -- token --user echo > token
//! cargo run --release --example echo_bot -- token ws://127.0.0.1:8080/ws
//! cargo run --release -- chat --user alice --to echo             # talk to it
//! ```

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use im_gateway::client::{Client, Event, Fate, Tokens};
use im_gateway::env::Tcp;

/// A file that whoever issues tokens keeps fresh: it is read at every connection, and before the
/// token that is in use expires.
struct TokenFile(PathBuf);

#[async_trait]
impl Tokens for TokenFile {
    async fn token(&self) -> Result<String, String> {
        let read = tokio::fs::read_to_string(&self.0).await;
        read.map(|token| token.trim().to_owned()).map_err(|error| format!("{}: {error}", self.0.display()))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(file), urls) = (args.next(), args.collect::<Vec<_>>()) else {
        return Err("usage: echo_bot TOKEN_FILE URL [URL ...]".into());
    };
    // Several addresses: when a node dies, the client goes on by another one.
    let client = Client::builder(Arc::new(Tcp), urls, Arc::new(TokenFile(file.into())), "bot");
    // `ahead(0)`: a message is acknowledged to the cluster only when it was taken from `next`; until then it comes again,
    // also after this program died.
    let client = client.ahead(0).connect()?;
    let mut own_user = String::new();
    while let Some(event) = client.next().await {
        match event {
            // What another device of this user wrote comes as a copy; to answer it would be to talk to oneself, for ever.
            Event::Message(message) if message.from == own_user => {}
            Event::Message(message) if message.group.is_none() => {
                // Waits only while the client's own queue is full.
                let receipt = client.send(message.from.as_str(), &message.body).await?;
                tokio::spawn(async move {
                    match receipt.await {
                        Fate::Stored(_) => {}
                        fate => eprintln!("an answer to {} was not stored: {fate:?}", message.from),
                    }
                });
            }
            Event::Gap { lost, .. } => eprintln!("{lost} messages were missed"),
            Event::Connected { user, node, .. } => {
                println!("{user} is served by node {node}");
                own_user = user;
            }
            Event::Disconnected { reason } => eprintln!("not connected: {reason}"),
            Event::Stopped(why) => return Err(format!("stopped: {why}").into()),
            _ => {}
        }
    }
    Ok(())
}
