//! The shell around a session: one task that reads, writes and waits.
//!
//! Invariants: between two decisions of the [`Core`] it waits for all that can happen at once, so
//! no direction blocks the other; nothing it holds grows with the time a connection is open.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use cluster::env::clock::{self, Instant};
use cluster::env::net::BoxConn;
use cluster::session::{Event, SessionSpec};

use super::control::{Control, Order, Place};
use super::core::{Core, Moment, PRESENCES, put_frame};
use super::ending::{Counted, End};
use super::handshake::{Greeting, Rejection, greet};
use super::link::Link;
use super::node::Node;
use super::wire::{Progress, Reader, Wire};
use super::ws::{self, Incoming};
use crate::auth::{AuthError, Identity};
use crate::protocol::{CloseCode, GoAway, ServerBody, ServerFrame};
use crate::telemetry::Leaving;

/// While frames must wait, so much is read ahead of them: enough to see a stream's end.
const READ_AHEAD_BYTES: usize = 16 << 10;
/// When so much waits to be written, writing comes before everything else.
const FLUSH_FIRST_BYTES: usize = 16 << 10;
/// How often in a row a page is read anew because a body in it has moved or left meanwhile.
const PAGE_TRIES: u32 = 8;

/// A WebSocket that was just opened.
pub struct Opened {
    /// Its stream.
    pub conn: BoxConn,
    /// What was read of it already.
    pub early: Bytes,
    /// Whom the HTTP header's token names, if there was one.
    pub identity: Option<Identity>,
    /// Where it comes from.
    pub peer: SocketAddr,
}

/// Why the task woke up.
enum Wake {
    Event(Event),
    Wire(Progress),
    /// A deadline has come.
    Due,
    /// The node wants something.
    Order(Order),
}

/// Serves a connection until it is closed. `open` begins the session that the client asks for and
/// tells how many sends it may have unanswered, or else the code to close it with; without a place
/// the node is full (1013).
pub async fn run<L: Link>(
    node: Arc<Node>,
    opened: Opened,
    place: Option<Place>,
    open: impl FnOnce(SessionSpec, &Identity) -> Result<(L, u32), CloseCode> + Send,
) {
    let Opened { conn, early, identity, peer } = opened;
    let mut counted = Counted::new(&node);
    let mut wire = Wire::new(conn, Reader::new(node.rules.frame_bytes as usize, &early), &node);
    drop(early);
    let started = clock::now();
    let deadline = started + node.rules.hello_timeout;
    let end = match &place {
        None => End::Close(CloseCode::Overload),
        Some(place) => {
            let hello = clock::timeout_at(deadline, handshake(&node, &mut wire, identity, peer, &place.control)).await;
            match hello.unwrap_or(Err(End::Close(CloseCode::HelloTimeout))) {
                Ok(greeting) => {
                    place.greeted();
                    session(&node, &mut wire, greeting, peer, &place.control, open).await
                }
                Err(end) => end,
            }
        }
    };
    counted.ended(end, peer);
    wire.farewell(end).await;
}

/// Waits for the first frame.
async fn handshake(
    node: &Node,
    wire: &mut Wire,
    identity: Option<Identity>,
    peer: SocketAddr,
    control: &Control,
) -> Result<Greeting, End> {
    loop {
        // Answers to pings must not fill the memory for a client that reads none of them.
        let incoming = if wire.full() { None } else { wire.reader.next()? };
        match incoming {
            None => poll_fn(|cx| poll_handshake(wire, control, cx)).await?,
            Some(Incoming::Text(text)) => {
                let fresh = rand::random();
                let greet = || greet(&text, identity.as_ref(), &node.verifier, clock::wall_ms(), fresh);
                let mut greeting = greet();
                let about_keys = |rejection: &Rejection| rejection.auth.is_some_and(AuthError::is_about_keys);
                if greeting.as_ref().is_err_and(about_keys) && node.verifier.look_again().await {
                    greeting = greet();
                }
                return greeting.map_err(|rejection| {
                    if let Some(error) = &rejection.auth {
                        node.auth_failed(Some(peer), error);
                    }
                    put_frame(&mut wire.writer.out, &rejection.frame());
                    End::Close(rejection.close)
                });
            }
            Some(Incoming::Ping(payload)) => ws::put_pong(&mut wire.writer.out, payload),
            Some(Incoming::Pong | Incoming::Part) => {}
            Some(Incoming::Binary(_)) => return Err(End::Close(CloseCode::Binary)),
            Some(Incoming::Close(code)) => return Err(End::Left(code)),
        }
    }
}

/// Ready when bytes came before the session, or there is room again for answers; an error when
/// none will come.
fn poll_handshake(wire: &mut Wire, control: &Control, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
    match control.poll_order(cx) {
        None => wire.poll_answering(cx),
        // Whoever has spoken is heard first: it may have waited for this node, not the other way round.
        Some(Order::GiveWay) => match wire.poll_answering(cx) {
            Poll::Pending => Poll::Ready(Err(End::GivesWay)),
            heard => {
                control.give(Order::GiveWay);
                heard
            }
        },
        Some(Order::Leave { .. } | Order::End { .. }) => Poll::Ready(Err(End::Close(CloseCode::Restart))),
    }
}

/// Has the session, from its registration to its end.
async fn session<L: Link>(
    node: &Arc<Node>,
    wire: &mut Wire,
    greeting: Greeting,
    peer: SocketAddr,
    control: &Control,
    open: impl FnOnce(SessionSpec, &Identity) -> Result<(L, u32), CloseCode>,
) -> End {
    let Greeting { spec, identity, id } = greeting;
    let (user, device) = (spec.user.clone(), spec.device.clone());
    let (link, inflight) = match open(spec, &identity) {
        Ok(opened) => opened,
        Err(code) => {
            if code == CloseCode::BadToken {
                let rejection = Rejection::auth(id, AuthError::Revoked);
                node.auth_failed(Some(peer), &AuthError::Revoked);
                put_frame(&mut wire.writer.out, &rejection.frame());
            }
            return End::Close(code);
        }
    };
    let started = clock::now();
    tracing::info!(
        event = "connection_established",
        user_id = user.as_str(),
        device_id = device.as_str(),
        remote_addr = %peer.ip(),
        "a client connected"
    );
    let mut core = Core::new(node.clone(), &identity, device, id, inflight, started);
    let end = serve(wire, &mut core, &link, control).await;
    // 1000, 1001 and no code at all are what clients say that leave for good.
    let clean = matches!(end, End::Left(None | Some(1000 | 1001)));
    link.close(clean);
    tracing::info!(
        event = "connection_closed",
        user_id = user.as_str(),
        reason = end.reason(),
        duration_seconds = started.elapsed().as_secs(),
        "a client's connection ended"
    );
    end
}

async fn serve(wire: &mut Wire, core: &mut Core, link: &impl Link, control: &Control) -> End {
    let mut timer = Timer::default();
    let mut ended = None;
    loop {
        if let Err(end) = take_frames(wire, core, link) {
            return end;
        }
        if let Some(kind) = ended {
            return End::Lost(kind);
        }
        if let Err(end) = deliver(wire, core, link).await {
            return end;
        }
        let wake = wait(wire, core, link, control, &mut timer).await;
        let at = Moment::now();
        let decision = match wake {
            Wake::Event(event) => core.event(event, at, &mut wire.writer.out, link),
            Wake::Due => core.tick(at, wire.is_stuck(), &mut wire.writer.out),
            Wake::Wire(Progress::Read | Progress::Room { freed: true }) => {
                core.heard(at.now);
                Ok(())
            }
            Wake::Wire(Progress::Room { freed: false }) => Ok(()),
            Wake::Wire(Progress::Ended(kind)) => {
                ended = Some(kind);
                Ok(())
            }
            Wake::Order(order) => obey(&order, wire),
        };
        if let Err(end) = decision {
            return end;
        }
    }
}

/// Tells the client what the node wants of it.
fn obey(order: &Order, wire: &mut Wire) -> Result<(), End> {
    let (after_ms, url, why) = match order {
        Order::Leave { after_ms, url } => (*after_ms, Some(&**url), Leaving::Drain),
        Order::End { after_ms } => (*after_ms, None, Leaving::End),
        // It has said hello meanwhile.
        Order::GiveWay => return Ok(()),
    };
    wire.metrics.go_away(why);
    let go_away = GoAway { after_ms, url: url.map(Into::into) };
    put_frame(&mut wire.writer.out, &ServerFrame { id: None, body: ServerBody::GoAway(go_away) });
    match why {
        Leaving::Drain => Ok(()),
        Leaving::End => Err(End::Close(CloseCode::Restart)),
    }
}

/// Tells who is there; reads the inbox and writes what is in it, for as long as there is something and room for it.
async fn deliver(wire: &mut Wire, core: &mut Core, link: &impl Link) -> Result<(), End> {
    let mut tries = 0;
    while core.wants_presences(wire.writer.waiting()) {
        core.presences(&link.presences(PRESENCES), Moment::now(), &mut wire.writer.out);
    }
    while let Some(page) = core.wants_page(wire.writer.waiting()) {
        // Boxed, because reading is rare and its state must not be part of every idle task.
        match Box::pin(link.read(page.after, page.count, page.bytes)).await {
            Ok(deliveries) => {
                tries = 0;
                // What was read may be newer than what the session was told.
                core.check_revoked(link.revoked_before())?;
                core.page(deliveries, Moment::now(), &mut wire.writer.out);
            }
            // The message has left, or a checkpoint has put its body elsewhere: the inbox knows by now.
            Err(error) if error.kind() == io::ErrorKind::NotFound && tries + 1 < PAGE_TRIES => tries += 1,
            Err(error) => {
                tracing::error!(event = "database_error", operation = "read_inbox", %error, "cannot read a message");
                return Err(End::Close(CloseCode::Unavailable));
            }
        }
    }
    Ok(())
}

/// Takes the frames that are there, as far as they may be taken.
fn take_frames(wire: &mut Wire, core: &mut Core, link: &impl Link) -> Result<(), End> {
    let at = Moment::now();
    while core.may_take(at.now, wire.writer.waiting()) {
        match wire.reader.next()? {
            Some(incoming) => core.frame(incoming, at, &mut wire.writer.out, link)?,
            None => break,
        }
    }
    Ok(())
}

/// Waits until there is something to do.
async fn wait(wire: &mut Wire, core: &Core, link: &impl Link, control: &Control, timer: &mut Timer) -> Wake {
    let at = Moment::now();
    let waiting_out = wire.writer.waiting();
    let may_take = core.may_take(at.now, waiting_out);
    let due = core.due(at, !may_take && wire.reader.waiting() > 0);
    if due <= at.now {
        return Wake::Due;
    }
    timer.arm(due);
    let reads = may_take || wire.reader.waiting() < READ_AHEAD_BYTES;
    let wants_room = core.wants_room(waiting_out) || (!may_take && waiting_out > 0);
    let mut next = pin!(link.next());
    poll_fn(|cx| {
        if let Some(order) = control.poll_order(cx) {
            return Poll::Ready(Wake::Order(order));
        }
        if wire.writer.waiting() >= FLUSH_FIRST_BYTES
            && let Poll::Ready(progress) = wire.poll_flush(wants_room, cx)
        {
            return Poll::Ready(Wake::Wire(progress));
        }
        if let Poll::Ready(event) = next.as_mut().poll(cx) {
            return Poll::Ready(Wake::Event(event));
        }
        if let Poll::Ready(progress) = wire.poll_flush(wants_room, cx) {
            return Poll::Ready(Wake::Wire(progress));
        }
        if reads && let Poll::Ready(progress) = wire.poll_read(cx) {
            return Poll::Ready(Wake::Wire(progress));
        }
        timer.poll(cx).map(|()| Wake::Due)
    })
    .await
}

/// One timer that is set again only when it would come too late.
#[derive(Default)]
struct Timer {
    at: Instant,
    sleep: Option<clock::Sleep>,
}

impl Timer {
    fn arm(&mut self, due: Instant) {
        if self.sleep.is_none() || due < self.at {
            self.at = due;
            self.sleep = Some(clock::sleep_until(due));
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(sleep) = &mut self.sleep else { return Poll::Pending };
        let ready = sleep.as_mut().poll(cx);
        if ready.is_ready() {
            self.sleep = None;
        }
        ready
    }
}

impl Moment {
    fn now() -> Self {
        Self { now: clock::now(), wall_ms: clock::wall_ms() }
    }
}
