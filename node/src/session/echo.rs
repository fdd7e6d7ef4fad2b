//! A WebSocket that says everything back: what is tested is the socket, by whatever client there is.

use std::future::poll_fn;

use super::ending::End;
use super::node::Node;
use super::run::Opened;
use super::wire::{Reader, Wire};
use super::ws::{self, Incoming};

/// Sends every message back until the client closes. The socket has the limits and buffers of a session's.
pub async fn echo(node: &Node, opened: Opened) {
    let reader = Reader::with_binary(node.rules.frame_bytes as usize, &opened.early);
    let mut wire = Wire::new(opened.conn, reader, node);
    let end = loop {
        match answer(&mut wire) {
            Ok(true) => {}
            Ok(false) => {
                if let Err(end) = poll_fn(|cx| wire.poll_answering(cx)).await {
                    break end;
                }
            }
            Err(end) => break end,
        }
    };
    wire.farewell(end).await;
}

/// Answers the next message; false if there is none, or no room for an answer.
fn answer(wire: &mut Wire) -> Result<bool, End> {
    if wire.full() {
        return Ok(false);
    }
    let out = &mut wire.writer.out;
    match wire.reader.next()? {
        None => return Ok(false),
        Some(Incoming::Text(text)) => ws::put_text(out, |out| out.extend_from_slice(text.as_bytes())),
        Some(Incoming::Binary(bytes)) => ws::put_binary(out, &bytes),
        Some(Incoming::Ping(payload)) => ws::put_pong(out, payload),
        Some(Incoming::Pong | Incoming::Part) => {}
        Some(Incoming::Close(code)) => return Err(End::Left(code)),
    }
    Ok(true)
}
