//! As much of an HTTP client as the tests need.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer.
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
    /// The body as it came.
    pub bytes: Vec<u8>,
}

/// `GET path` at `host:port`.
pub async fn get(addr: &str, path: &str) -> io::Result<Answer> {
    request(addr, &format!("GET {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\r\n")).await
}

/// `POST path` at `host:port`.
pub async fn post(addr: &str, path: &str) -> io::Result<Answer> {
    request(addr, &format!("POST {path} HTTP/1.1\r\nhost: {addr}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"))
        .await
}

/// Any request, and its answer: as long as it says that it is, or else everything until the end.
pub async fn request(addr: &str, text: &str) -> io::Result<Answer> {
    request_over(TcpStream::connect(addr).await?, text).await
}

/// `GET path` over a stream.
pub async fn get_over(stream: impl AsyncRead + AsyncWrite + Unpin, addr: &str, path: &str) -> io::Result<Answer> {
    request_over(stream, &format!("GET {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\r\n")).await
}

async fn request_over(mut stream: impl AsyncRead + AsyncWrite + Unpin, text: &str) -> io::Result<Answer> {
    stream.write_all(text.as_bytes()).await?;
    stream.flush().await?;
    let mut bytes = Vec::new();
    while !complete(&bytes) && stream.read_buf(&mut bytes).await? > 0 {}
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let start = bytes.windows(4).position(|window| window == b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned(), bytes: bytes[start..].to_vec() })
}

/// Whether these bytes are a whole answer, so that nobody has to wait for the connection's end.
fn complete(bytes: &[u8]) -> bool {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    // Behind it comes something else than HTTP.
    if head.starts_with("http/1.1 101 ") {
        return true;
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    length.and_then(|length| length.trim().parse::<usize>().ok()).is_some_and(|length| bytes.len() >= end + 4 + length)
}
