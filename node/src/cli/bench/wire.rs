//! A WebSocket client as thin as can be: the load generator shares its cores with the nodes it
//! measures, and holds tens of thousands of connections.
//!
//! It buffers only parts of frames, and masks with zeros: the node does the same work on any mask.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use cluster::env::clock;
use cluster::env::net::BoxConn;
use im_gateway::client::Address;
use im_gateway::env::Tcp;
use im_gateway::protocol::{ClientBody, ClientFrame, Hello, SUBPROTOCOL, ServerBody, ServerFrame};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, lookup_host};

use super::super::dial::Dial;

/// Largest frame that is taken from a node.
const FRAME_BYTES: usize = 1 << 20;
/// Longest answer to the handshake.
const HEAD_BYTES: usize = 8 << 10;
/// How long a node may take from the first packet to its welcome.
const WELCOME: Duration = Duration::from_secs(30);

thread_local! {
    /// Where bytes land before they are looked at; one per thread, not one per connection.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; 64 << 10]);
}

/// Where and as whom to connect.
#[derive(Debug, Clone)]
pub struct Login {
    pub token: String,
    pub device: String,
    pub instance: String,
    pub attempt: u64,
}

/// What the node allows.
#[derive(Debug, Clone, Copy)]
pub struct Welcome {
    pub inflight: usize,
    pub frame_bytes: usize,
}

/// One connection.
pub struct Wire {
    stream: BoxConn,
    /// The beginning of a frame whose end has not come.
    rest: Vec<u8>,
    out: Output,
    /// Bytes of `out` that the system has taken.
    written: usize,
}

/// Frames on their way out.
#[derive(Default)]
pub struct Output(Vec<u8>);

impl Output {
    /// Appends a text frame.
    pub fn text(&mut self, text: &str) {
        self.frame(0x1, text.as_bytes());
    }

    fn frame(&mut self, opcode: u8, payload: &[u8]) {
        const MASKED: u8 = 0x80;
        self.0.push(0x80 | opcode);
        match u16::try_from(payload.len()) {
            Ok(length @ 0..=125) => self.0.push(MASKED | length as u8),
            Ok(length) => {
                self.0.push(MASKED | 126);
                self.0.extend_from_slice(&length.to_be_bytes());
            }
            Err(_) => {
                self.0.push(MASKED | 127);
                self.0.extend_from_slice(&(payload.len() as u64).to_be_bytes());
            }
        }
        self.0.extend_from_slice(&[0; 4]);
        self.0.extend_from_slice(payload);
    }
}

/// A frame's opcode, where its payload begins and ends; `None` while it is incomplete.
fn parse(bytes: &[u8]) -> io::Result<Option<(u8, usize, usize)>> {
    let [first, second, ..] = *bytes else { return Ok(None) };
    let broken = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
    if first & 0xf0 != 0x80 || second & 0x80 != 0 {
        return broken("a frame that is fragmented, masked or extended");
    }
    let (start, length) = match second {
        126 => match bytes.get(2..4) {
            Some(length) => (4, usize::from(u16::from_be_bytes(length.try_into().expect("two bytes")))),
            None => return Ok(None),
        },
        127 => match bytes.get(2..10) {
            Some(length) => {
                let length = u64::from_be_bytes(length.try_into().expect("eight bytes"));
                (10, usize::try_from(length).unwrap_or(usize::MAX))
            }
            None => return Ok(None),
        },
        length => (2, usize::from(length)),
    };
    if length > FRAME_BYTES {
        return broken("a frame that is too large");
    }
    Ok((bytes.len() >= start + length).then_some((first & 0x0f, start, start + length)))
}

impl Wire {
    /// Connects, shakes hands, says hello and waits for the welcome.
    ///
    /// # Errors
    /// What went wrong, for people.
    pub async fn open(dial: &Dial, address: &Address, login: &Login, nth: usize) -> Result<(Self, Welcome), String> {
        let opening = async {
            let opened = connect(&address.authority, nth).await.and_then(|conn| dial.secure(conn, address));
            let stream = opened.map_err(|error| format!("connect: {error}"))?;
            let _ = stream.set_nodelay(true);
            let mut wire = Self { stream, rest: Vec::new(), out: Output::default(), written: 0 };
            wire.shake_hands(address).await.map_err(|error| format!("handshake: {error}"))?;
            let hello = Hello {
                token: Some(login.token.as_str().into()),
                device: Some(login.device.as_str().into()),
                instance: Some(login.instance.as_str().into()),
                attempt: login.attempt,
                ephemeral: true,
            };
            wire.out.text(&ClientFrame { id: Some(1), body: ClientBody::Hello(hello) }.encode());
            let welcome = wire.welcome().await.map_err(|error| format!("hello: {error}"))?;
            Ok((wire, welcome))
        };
        clock::timeout(WELCOME, opening).await.unwrap_or_else(|_| Err("no welcome in time".to_owned()))
    }

    async fn shake_hands(&mut self, address: &Address) -> io::Result<()> {
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n",
            address.path, address.authority
        );
        self.stream.write_all(request.as_bytes()).await?;
        self.stream.flush().await?;
        let mut head = Vec::new();
        let end = loop {
            if self.stream.read_buf(&mut head).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            if head.len() > HEAD_BYTES {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "an endless answer"));
            }
        };
        if !head.starts_with(b"HTTP/1.1 101") {
            let line = String::from_utf8_lossy(&head[..end]).lines().next().unwrap_or_default().to_owned();
            return Err(io::Error::other(line));
        }
        self.rest = head.split_off(end);
        Ok(())
    }

    async fn welcome(&mut self) -> io::Result<Welcome> {
        let mut welcome = None;
        std::future::poll_fn(|cx| {
            self.poll_flush(cx)?;
            let polled = self.poll_frames(cx, |frame, _| {
                if let ServerBody::Welcome(said) = frame.body {
                    let (inflight, frame_bytes) = (said.limits.inflight as usize, said.limits.frame_bytes as usize);
                    welcome = Some(Welcome { inflight, frame_bytes });
                }
                // What comes behind the welcome is for whoever goes on with this connection.
                welcome.is_none()
            });
            match (polled, welcome) {
                (_, Some(welcome)) => Poll::Ready(Ok(welcome)),
                (Err(error), None) => Poll::Ready(Err(error)),
                (Ok(()), None) => Poll::Pending,
            }
        })
        .await
    }

    /// Gives every frame that is there to `on`, with the output for what it has to say, as long as
    /// `on` returns true. Answers pings itself. The task is woken when there is more.
    ///
    /// # Errors
    /// The end of the connection.
    pub fn poll_frames(
        &mut self,
        cx: &mut Context<'_>,
        mut on: impl FnMut(ServerFrame<'_>, &mut Output) -> bool,
    ) -> io::Result<()> {
        if !self.rest.is_empty() {
            let bytes = std::mem::take(&mut self.rest);
            if !self.take(&bytes, &mut on)? {
                return Ok(());
            }
        }
        SCRATCH.with_borrow_mut(|scratch| {
            loop {
                // Behind an incomplete frame there is room for what belongs to it.
                let kept = self.rest.len();
                if scratch.len() < kept + (64 << 10) {
                    scratch.resize(kept + (64 << 10), 0);
                }
                let mut buffer = ReadBuf::new(&mut scratch[kept..]);
                match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(result) => result?,
                }
                let read = buffer.filled().len();
                if read == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                scratch[..kept].copy_from_slice(&self.rest);
                self.rest.clear();
                if !self.take(&scratch[..kept + read], &mut on)? {
                    return Ok(());
                }
            }
        })
    }

    /// Takes whole frames from `bytes`, as long as `on` wants them, and keeps the rest.
    fn take(&mut self, bytes: &[u8], on: &mut impl FnMut(ServerFrame<'_>, &mut Output) -> bool) -> io::Result<bool> {
        let mut at = 0;
        let mut more = true;
        while more && let Some((opcode, start, end)) = parse(&bytes[at..])? {
            let payload = &bytes[at + start..at + end];
            at += end;
            match opcode {
                0x1 => {
                    let invalid = |error: String| io::Error::new(io::ErrorKind::InvalidData, error);
                    let text = std::str::from_utf8(payload).map_err(|error| invalid(error.to_string()))?;
                    let frame = ServerFrame::decode(text).map_err(|error| invalid(error.to_string()))?;
                    match frame.body {
                        ServerBody::Ping => self.out.text("{\"pong\":{}}"),
                        _ => more = on(frame, &mut self.out),
                    }
                }
                0x8 => {
                    let code = payload.get(..2).map_or(1005, |code| u16::from_be_bytes([code[0], code[1]]));
                    let words = String::from_utf8_lossy(payload.get(2..).unwrap_or_default()).into_owned();
                    return Err(io::Error::other(format!("closed by the node: {code} {words}")));
                }
                0x9 => self.out.frame(0xa, payload),
                _ => {}
            }
        }
        self.rest.clear();
        self.rest.extend_from_slice(&bytes[at..]);
        if self.rest.is_empty() {
            self.rest = Vec::new();
        }
        Ok(more)
    }

    /// Frames to be written by the next flush.
    pub fn output(&mut self) -> &mut Output {
        &mut self.out
    }

    /// Whether so much waits to be written that no more should be added.
    pub fn is_choked(&self) -> bool {
        self.out.0.len() > (64 << 10)
    }

    /// Writes what the system takes. The task is woken when it takes more.
    ///
    /// # Errors
    /// The end of the connection.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.poll_write(cx) {
            Poll::Ready(result) => result,
            Poll::Pending => Ok(()),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.out.0.len() {
            self.written += ready!(Pin::new(&mut self.stream).poll_write(cx, &self.out.0[self.written..]))?;
        }
        self.written = 0;
        if self.out.0.capacity() > (4 << 10) {
            self.out.0 = Vec::new()
        } else {
            self.out.0.clear()
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Makes the end of this connection a sudden one: the node sees a reset, no farewell.
    pub fn abort(self) {
        self.stream.abort_on_drop();
    }

    /// Says good-bye, so that the node forgets the device.
    pub async fn close(mut self) {
        self.out.frame(0x8, &1000_u16.to_be_bytes());
        let closing = std::future::poll_fn(|cx| {
            let _ = self.poll_flush(cx);
            // The node's own close ends the reading.
            self.poll_frames(cx, |_, _| true).map_or(Poll::Ready(()), |()| Poll::Pending)
        });
        let _ = clock::timeout(Duration::from_secs(2), closing).await;
    }
}

/// Connects; when all ports of our address are taken, from further loopback addresses.
async fn connect(authority: &str, nth: usize) -> io::Result<BoxConn> {
    let target = lookup_host(authority).await?.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
    match open_from(None, target).await {
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable && target.ip().is_loopback() => {
            let last = u8::try_from(2 + nth % 200).expect("it is below 202");
            open_from(Some(IpAddr::from([127, 0, 0, last])), target).await
        }
        outcome => outcome,
    }
}

async fn open_from(source: Option<IpAddr>, target: SocketAddr) -> io::Result<BoxConn> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    Ok(Tcp::wrap(socket.connect(target).await?, target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_all_lengths() {
        for length in [0_usize, 1, 125, 126, 65_535, 65_536] {
            let mut out = Output::default();
            out.frame(0x1, &vec![b'x'; length]);
            // What a node would send has no mask.
            let header = out.0.len() - length - 4;
            let mut bytes = out.0[..header].to_vec();
            bytes[1] &= 0x7f;
            bytes.extend(std::iter::repeat_n(b'x', length));
            assert_eq!(parse(&bytes).expect("good"), Some((1, header, header + length)));
            for cut in [1, header - 1, bytes.len() - 1] {
                if cut < bytes.len() {
                    assert_eq!(parse(&bytes[..cut]).expect("incomplete"), None);
                }
            }
        }
        assert!(parse(&[0x01, 0x00]).is_err(), "fragmented");
        assert!(parse(&[0x81, 0x80]).is_err(), "masked");
        assert!(parse(&[0x81, 127, 1, 0, 0, 0, 0, 0, 0, 0]).is_err(), "too large");
    }
}
