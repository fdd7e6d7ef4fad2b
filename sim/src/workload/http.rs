//! Requests by HTTP, as tools outside make them.

use cluster::env::Net;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::net::SimNet;

/// The body of a node's answer to a GET, if that is a good one. `token`: whoever administers nodes has one.
pub async fn get(net: &SimNet, addr: &str, path: &str, token: Option<&str>) -> Option<String> {
    let mut stream = net.connect(addr).await.ok()?;
    let token = token.map_or_else(String::new, |token| format!("authorization: Bearer {token}\r\n"));
    let request = format!("GET {path} HTTP/1.1\r\nhost: {addr}\r\n{token}connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok()?;
    let answer = String::from_utf8(answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
}
