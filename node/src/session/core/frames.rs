//! What the client says, frame by frame.
//!
//! Invariant: each frame counts towards the rates, but for an acknowledgement that says something new.

use cluster::id::Pos;

use super::{Core, Moment};
use crate::protocol::{ClientBody, ClientFrame, CloseCode, DecodeError, ErrorBody, ErrorCode, ServerBody};
use crate::session::ending::End;
use crate::session::link::Link;
use crate::session::ws::{self, Incoming};
use crate::telemetry::What;

/// Malformed frames that a client may send before it is closed.
const MAX_BAD_FRAMES: u8 = 8;

impl Core {
    /// Takes a frame.
    ///
    /// # Errors
    /// How the connection ends.
    pub fn frame(
        &mut self,
        incoming: Incoming<'_>,
        at: Moment,
        out: &mut Vec<u8>,
        link: &impl Link,
    ) -> Result<(), End> {
        match incoming {
            Incoming::Text(text) => match ClientFrame::decode(&text) {
                Ok(frame) => self.client_frame(&frame, at, out, link),
                Err(error) => self.bad_frame(error, at, out),
            },
            Incoming::Binary(_) => Err(End::Close(CloseCode::Binary)),
            Incoming::Ping(payload) => {
                self.spend(at.now);
                ws::put_pong(out, payload);
                Ok(())
            }
            // Each part of a message costs as much as a whole one: there may be any number, of no bytes at all.
            Incoming::Pong | Incoming::Part => {
                self.spend(at.now);
                Ok(())
            }
            Incoming::Close(code) => Err(End::Left(code)),
        }
    }

    fn client_frame(
        &mut self,
        frame: &ClientFrame<'_>,
        at: Moment,
        out: &mut Vec<u8>,
        link: &impl Link,
    ) -> Result<(), End> {
        match &frame.body {
            ClientBody::Ack(upto) => match self.window.ack(Pos(*upto)) {
                Ok(true) => {
                    self.note(at.wall_ms, What::Acked { seq: Pos(*upto) });
                    self.acked_traces(Pos(*upto), at);
                    link.ack(Pos(*upto));
                }
                // One that says nothing new; the others are bounded by what was delivered.
                Ok(false) => self.spend(at.now),
                Err(_) => return Err(End::Close(CloseCode::Protocol)),
            },
            ClientBody::Pong => self.spend(at.now),
            ClientBody::Send(send) => {
                self.spend(at.now);
                self.send(frame.id, send, at, out, link);
            }
            ClientBody::Group(group) => {
                self.spend(at.now);
                self.group(frame.id, group, at, out, link);
            }
            ClientBody::Ping => {
                self.spend(at.now);
                self.say(None, ServerBody::Pong, at, out);
            }
            ClientBody::Forget(forget) => {
                self.spend(at.now);
                self.forget(frame.id, &forget.device, at, out, link);
            }
            ClientBody::Typing(typing) => {
                self.spend(at.now);
                self.typing(frame.id, &typing.to, at, out, link);
            }
            ClientBody::Read(read) => {
                self.spend(at.now);
                self.read(frame.id, read, at, out, link);
            }
            ClientBody::Watch(watch) => {
                self.spend(at.now);
                self.watch(frame.id, watch, at, out, link);
            }
            ClientBody::Unwatch(watch) => {
                self.spend(at.now);
                self.unwatch(frame.id, watch, at, out, link);
            }
            ClientBody::Refresh(refresh) => {
                self.spend(at.now);
                self.refresh(frame.id, &refresh.token, at, out, link);
            }
            ClientBody::Hello(_) => {
                let message = "this connection has said hello before".to_owned();
                return self.bad_frame(DecodeError { id: frame.id, code: ErrorCode::BadFrame, message }, at, out);
            }
        }
        Ok(())
    }

    fn bad_frame(&mut self, error: DecodeError, at: Moment, out: &mut Vec<u8>) -> Result<(), End> {
        self.spend(at.now);
        let code = error.code;
        self.say(error.id, ServerBody::Error(ErrorBody { code, message: error.message.into() }), at, out);
        // A type that a newer client knows and we don't is no violation.
        self.bad_frames += u8::from(code == ErrorCode::BadFrame);
        if self.bad_frames >= MAX_BAD_FRAMES { Err(End::Close(CloseCode::Protocol)) } else { Ok(()) }
    }
}
