//! A WebSocket by hand, for those who do not want to speak it properly.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use cluster::env::Net;
use cluster::env::net::BoxConn;
use im_gateway::auth::issue;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::EXPIRES_MS;
use crate::net::SimNet;
use crate::process::TOKEN_SECRET;
use crate::time;

/// Opcodes.
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
const CLOSE: u8 = 8;
/// The type of the frame that begins a session, as it stands in no other.
pub const WELCOME: &str = "\"welcome\"";
/// How the head of the answer begins that opens a WebSocket.
pub const SWITCHED: &str = "HTTP/1.1 101";
/// The frame that answers a `ping`.
pub const PONG: &str = "{\"pong\":{}}";

/// What the node says.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// A text frame.
    Text(String),
    /// It closes, with this code.
    Close(u16),
    /// Something else.
    Other,
}

/// A connection.
pub struct Raw {
    stream: BoxConn,
    read: Vec<u8>,
}

impl Raw {
    /// Connects, no more.
    pub async fn connect(net: &Arc<SimNet>, addr: &str) -> io::Result<Self> {
        Ok(Self { stream: net.connect(addr).await?, read: Vec::new() })
    }

    /// Connects and opens a WebSocket.
    pub async fn open(net: &Arc<SimNet>, addr: &str) -> io::Result<Self> {
        let (raw, head) = Self::ask(net, addr).await?;
        if head.starts_with(SWITCHED) { Ok(raw) } else { Err(ErrorKind::ConnectionRefused.into()) }
    }

    /// Connects and asks for a WebSocket; also returns the head of the answer, see [`SWITCHED`].
    pub async fn ask(net: &Arc<SimNet>, addr: &str) -> io::Result<(Self, String)> {
        let mut raw = Self::connect(net, addr).await?;
        let request = format!(
            "GET /ws HTTP/1.1\r\nhost: {addr}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             sec-websocket-protocol: imgw.v1.json\r\n\r\n"
        );
        raw.bytes(request.as_bytes()).await?;
        let end = loop {
            if let Some(end) = raw.read.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            raw.fill().await?;
        };
        let head: Vec<u8> = raw.read.drain(..end).collect();
        Ok((raw, String::from_utf8_lossy(&head).into_owned()))
    }

    /// With a session of `user`'s.
    pub async fn session(net: &Arc<SimNet>, addr: &str, user: &str) -> io::Result<Self> {
        let mut raw = Self::open(net, addr).await?;
        raw.hello(user, TOKEN_SECRET, EXPIRES_MS).await?;
        match raw.until_welcome().await? {
            None => Ok(raw),
            Some(_) => Err(ErrorKind::ConnectionRefused.into()),
        }
    }

    /// Says hello as `user`, by a token of this secret and end.
    pub async fn hello(&mut self, user: &str, secret: &str, expires_ms: u64) -> io::Result<()> {
        let token = issue(secret, user, None, expires_ms).expect("HS256 signs");
        let hello = json!({ "token": token, "device": "x", "instance": user, "attempt": time::now() });
        self.text(&json!({ "id": 1, "hello": hello }).to_string()).await
    }

    /// Reads until it has a session; or the code that it is closed with instead.
    pub async fn until_welcome(&mut self) -> io::Result<Option<u16>> {
        loop {
            match self.next().await? {
                Said::Text(text) if text.contains(WELCOME) => return Ok(None),
                Said::Close(code) => return Ok(Some(code)),
                _ => {}
            }
        }
    }

    /// Writes bytes as they are.
    pub async fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Writes a frame, masked with zeros.
    pub async fn frame(&mut self, opcode: u8, payload: &[u8]) -> io::Result<()> {
        let mut frame = vec![0x80 | opcode];
        match payload.len() {
            len @ 0..126 => frame.push(0x80 | len as u8),
            len @ 126..65_536 => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&(len as u16).to_be_bytes());
            }
            len => {
                frame.push(0x80 | 127);
                frame.extend_from_slice(&(len as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(payload);
        self.bytes(&frame).await
    }

    /// Writes a text frame.
    pub async fn text(&mut self, text: &str) -> io::Result<()> {
        self.frame(TEXT, text.as_bytes()).await
    }

    async fn fill(&mut self) -> io::Result<()> {
        if self.stream.read_buf(&mut self.read).await? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    /// The next frame of the node.
    pub async fn next(&mut self) -> io::Result<Said> {
        loop {
            if let Some((opcode, start, len)) = self.header()
                && self.read.len() >= start + len
            {
                let payload: Vec<u8> = self.read.drain(..start + len).skip(start).collect();
                return Ok(match opcode {
                    TEXT => Said::Text(String::from_utf8_lossy(&payload).into_owned()),
                    CLOSE if len >= 2 => Said::Close(u16::from_be_bytes([payload[0], payload[1]])),
                    _ => Said::Other,
                });
            }
            self.fill().await?;
        }
    }

    /// Opcode, where the payload begins, and its length.
    fn header(&self) -> Option<(u8, usize, usize)> {
        let [first, second, rest @ ..] = self.read.as_slice() else { return None };
        let (start, len) = match second & 0x7f {
            126 => (4, u16::from_be_bytes(rest.get(..2)?.try_into().ok()?) as usize),
            127 => (10, u64::from_be_bytes(rest.get(..8)?.try_into().ok()?) as usize),
            len => (2, len as usize),
        };
        Some((first & 0x0f, start, len))
    }

    /// Reads until the node closes; with which code, if it gave one.
    pub async fn until_closed(&mut self) -> Option<u16> {
        loop {
            match self.next().await {
                Ok(Said::Close(code)) => return Some(code),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    /// Reads until the stream ends; what came.
    pub async fn until_ended(&mut self) -> Vec<u8> {
        while self.fill().await.is_ok() {}
        std::mem::take(&mut self.read)
    }
}
