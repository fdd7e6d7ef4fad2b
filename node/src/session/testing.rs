//! A session without a cluster: streams in memory, a link that a test plays.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use cluster::env::net::{BoxConn, Conn};
use cluster::id::{DeviceId, GroupId, MessageId, NodeId, Pos, UserId};
use cluster::presence::{Presence, TooMany};
use cluster::session::{Delivery, Event, MembersPage, MembersRefusal, Outgoing, Request, SessionSpec};
use cluster::state::{Body, Destination, GroupAct, Message, Told};
use cluster::trace::Mark;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::Notify;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::control::Connections;
use super::hooks::TestHooks;
use super::link::Link;
use super::node::{Node, Rules};
use super::run::{Opened, run};
use super::user_pace::UserPaces;
use crate::auth::{AuthConfig, DEV_SECRET, Identity, Verifier, issue};
use crate::delivery::WindowLimits;
use crate::protocol::{CloseCode, ServerFrame};
use crate::telemetry::{Metrics, Sampler, Seldom, TraceConfig, Tracer, Trail};

/// One end of a stream in memory.
pub struct Memory(pub DuplexStream);

impl AsyncRead for Memory {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Memory {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl Conn for Memory {
    fn peer_addr(&self) -> SocketAddr {
        ([127, 0, 0, 1], 7).into()
    }
    fn abort_on_drop(&self) {}
    fn set_nodelay(&self, _on: bool) -> io::Result<()> {
        Ok(())
    }
    fn set_user_timeout(&self, _timeout: Duration) -> io::Result<()> {
        Ok(())
    }
}

/// What a test sees and plays of the cluster.
#[derive(Default)]
pub struct Played {
    pub spec: Option<SessionSpec>,
    pub sent: Vec<(u64, Outgoing)>,
    pub refused: Vec<(u64, MessageId)>,
    pub grouped: Vec<(u64, GroupId, GroupAct)>,
    pub forgotten: Vec<(u64, DeviceId)>,
    /// Who was told of typing, or that a message was read.
    pub signals: Vec<(String, Option<MessageId>)>,
    pub watched: BTreeSet<UserId>,
    pub presences: VecDeque<Presence>,
    /// Some node of the cluster is older than groups.
    pub no_groups: bool,
    /// Tokens issued before do not count, ms since the Unix epoch.
    pub revoked_before: Option<u64>,
    pub acked: Vec<Pos>,
    pub inbox: Vec<Delivery>,
    /// So many reads fail in this way before one succeeds.
    pub failing_reads: Option<(usize, io::ErrorKind)>,
    pub closed: Option<bool>,
    events: VecDeque<Event>,
}

#[derive(Clone, Default)]
pub struct Script {
    played: Arc<Mutex<Played>>,
    news: Arc<Notify>,
}

impl Script {
    pub fn lock(&self) -> MutexGuard<'_, Played> {
        self.played.lock().unwrap()
    }

    pub fn tell(&self, event: Event) {
        self.lock().events.push_back(event);
        self.news.notify_one();
    }

    /// Answers the send with this token.
    pub fn ok(&self, token: u64) {
        self.tell(Event::Sent { token, result: Ok(MessageId([token as u8; 16])) });
    }

    /// A message arrives in the inbox.
    pub fn arrive(&self, pos: u64, body: &str) {
        let message = Message {
            pos: Pos(pos),
            mid: MessageId([pos as u8; 16]),
            from: UserId::new("bob").unwrap(),
            device: DeviceId::new("b1").unwrap(),
            to: Destination::User(UserId::new("alice").unwrap()),
            origin: NodeId(1),
            ts_ms: 5,
            stored_at_ms: 0,
            body: Body::Memory(Bytes::new()),
            told: Told::default(),
            trace: Mark::default(),
        };
        let body = Bytes::copy_from_slice(body.as_bytes());
        self.lock().inbox.push(Delivery::Message { message: Arc::new(message), body });
        self.tell(Event::Inbox);
    }

    /// Waits until the session has done something.
    pub async fn until(&self, what: &str, done: impl Fn(&Played) -> bool) {
        for _ in 0..10_000 {
            if done(&self.lock()) {
                return;
            }
            cluster::env::clock::sleep(Duration::from_millis(1)).await;
        }
        panic!("never: {what}");
    }
}

pub struct FakeLink(Script);

impl Link for FakeLink {
    async fn next(&self) -> Event {
        loop {
            let event = self.0.lock().events.pop_front();
            match event {
                Some(event) => return event,
                None => self.0.news.notified().await,
            }
        }
    }

    fn ask(&self, token: u64, request: Request) {
        match request {
            Request::Send(out) => self.0.lock().sent.push((token, out)),
            Request::Refuse(mid) => self.0.lock().refused.push((token, mid)),
            Request::Forget(device) => self.0.lock().forgotten.push((token, device)),
            Request::Group { group, act } => self.0.lock().grouped.push((token, group, act)),
        }
    }

    fn typing(&self, to: &UserId) {
        self.0.lock().signals.push((to.to_string(), None));
    }

    fn read_mark(&self, sender: &UserId, mid: MessageId) {
        self.0.lock().signals.push((sender.to_string(), Some(mid)));
    }

    fn watch(&self, users: BTreeSet<UserId>, most: usize) -> Result<(), TooMany> {
        let mut played = self.0.lock();
        let all: BTreeSet<UserId> = played.watched.union(&users).cloned().collect();
        if all.len() > most {
            return Err(TooMany);
        }
        played.watched = all;
        Ok(())
    }

    fn unwatch(&self, users: &BTreeSet<UserId>) {
        self.0.lock().watched.retain(|user| !users.contains(user));
    }

    fn presences(&self, most: usize) -> Vec<Presence> {
        let mut played = self.0.lock();
        let count = most.min(played.presences.len());
        played.presences.drain(..count).collect()
    }

    fn revoked_before(&self) -> Option<u64> {
        self.0.lock().revoked_before
    }

    fn confirm(&self) {}

    fn has_groups(&self) -> bool {
        !self.0.lock().no_groups
    }

    fn members(&self, group: &GroupId, after: Option<&UserId>, count: usize) -> Result<MembersPage, MembersRefusal> {
        match group.as_str() {
            "unknown" => Err(MembersRefusal::Unknown),
            "others" => Err(MembersRefusal::NotMember),
            _ => {
                let names = ["alice", "bob", "carol"].map(|name| UserId::new(name).unwrap());
                let mut members = names.into_iter().filter(|name| after.is_none_or(|after| name > after));
                let page = members.by_ref().take(count.min(2)).collect();
                Ok(MembersPage { members: page, more: members.next().is_some() })
            }
        }
    }

    fn ack(&self, upto: Pos) {
        self.0.lock().acked.push(upto);
    }

    async fn read(&self, after: Pos, max_count: usize, max_bytes: usize) -> io::Result<Vec<Delivery>> {
        if let Some((left @ 1.., kind)) = &mut self.0.lock().failing_reads {
            *left -= 1;
            return Err((*kind).into());
        }
        let mut bytes = 0;
        let fits = |delivery: &&Delivery| {
            let first = bytes == 0;
            bytes += match delivery {
                Delivery::Message { body, .. } => body.len(),
                Delivery::Gap { .. } => 1,
            };
            first || bytes <= max_bytes
        };
        let played = self.0.lock();
        let after = played.inbox.iter().filter(|delivery| delivery.seq() > after);
        Ok(after.take(max_count).take_while(fits).cloned().collect())
    }

    fn close(self, clean: bool) {
        self.0.lock().closed = Some(clean);
    }
}

pub const INFLIGHT: u32 = 4;

pub fn rules() -> Rules {
    Rules {
        ping: Duration::from_secs(25),
        hello_timeout: Duration::from_secs(5),
        ack_timeout: Duration::from_secs(5),
        frame_bytes: 4096,
        send_per_s: 100,
        watches: 3,
        window: WindowLimits { messages: 8, bytes: 64 << 10 },
    }
}

/// A client of a session whose cluster a test plays.
pub struct Client {
    pub socket: WebSocketStream<DuplexStream>,
    pub script: Script,
    pub node: Arc<Node>,
    pub connections: Arc<Connections>,
    pub task: tokio::task::JoinHandle<()>,
}

impl Client {
    pub async fn open(rules: Rules) -> Self {
        Self::open_with(rules, 64 << 10, Connections::new(10)).await
    }

    pub async fn open_with(rules: Rules, pipe_bytes: usize, connections: Arc<Connections>) -> Self {
        let (ours, theirs) = tokio::io::duplex(pipe_bytes);
        Self::open_on(rules, ours, Box::new(Memory(theirs)), connections).await
    }

    /// The node's end of the stream is `conn`.
    pub async fn open_on(rules: Rules, ours: DuplexStream, conn: BoxConn, connections: Arc<Connections>) -> Self {
        let metrics = Arc::new(Metrics::new());
        let node = Arc::new(Node {
            name: "n1".into(),
            rules,
            verifier: Arc::new(Verifier::new(&AuthConfig::default()).unwrap()),
            tracer: Tracer::new(TraceConfig::default(), metrics.clone()),
            metrics,
            deliveries: Sampler::new(1),
            trail: Trail::default(),
            hooks: Some(TestHooks::default()),
            users: UserPaces::new(0),
            unacknowledged: Seldom::default(),
        });
        let script = Script::default();
        let opened = Opened { conn, early: Bytes::new(), identity: None, peer: ([127, 0, 0, 1], 7).into() };
        let link = script.clone();
        let open = move |spec: SessionSpec, identity: &Identity| {
            if identity.is_revoked(link.lock().revoked_before) {
                return Err(CloseCode::BadToken);
            }
            link.lock().spec = Some(spec);
            Ok((FakeLink(link), INFLIGHT))
        };
        let task = tokio::spawn(run(node.clone(), opened, connections.enter(), open));
        let socket = WebSocketStream::from_raw_socket(ours, Role::Client, None).await;
        Self { socket, script, node, connections, task }
    }

    /// A client that was welcomed under epoch 7.
    pub async fn welcomed(rules: Rules) -> Self {
        let mut client = Self::open(rules).await;
        client.greet().await;
        client
    }

    pub async fn greet(&mut self) {
        self.say(&hello(60_000)).await;
        self.script.tell(Event::Registered { epoch: Pos(7) });
        let welcome = self.hear().await;
        assert!(welcome.contains(r#""welcome":{"session":"7","user":"alice","device":"d1","node":"n1""#), "{welcome}");
    }

    pub async fn say(&mut self, text: &str) {
        self.socket.send(Frame::text(text)).await.unwrap();
    }

    /// The next text frame, which must be one of the protocol's.
    pub async fn hear(&mut self) -> String {
        match self.socket.next().await {
            Some(Ok(Frame::Text(text))) => {
                ServerFrame::decode(&text).expect("a frame of the protocol");
                text.to_string()
            }
            other => panic!("no text frame but {other:?}"),
        }
    }

    /// The close code, which must come next; then the session must be over.
    pub async fn closed(mut self) -> u16 {
        let code = match self.socket.next().await {
            Some(Ok(Frame::Close(Some(frame)))) => frame.code.into(),
            other => panic!("no close frame but {other:?}"),
        };
        while self.socket.next().await.is_some() {}
        drop(self.socket);
        self.task.await.unwrap();
        assert_eq!(self.node.metrics.active_connections(), 0);
        let metrics = self.node.metrics.render("n");
        for gauge in ["send_queue", "writer_queue"] {
            assert!(metrics.contains(&format!("im_gateway_{gauge}{{node=\"n\"}} 0\n")), "{gauge}: {metrics}");
        }
        assert!(self.connections.is_empty());
        code
    }

    /// Asserts that nothing is said for `duration`.
    pub async fn silent(&mut self, duration: Duration) {
        let heard = cluster::env::clock::timeout(duration, self.socket.next()).await;
        assert!(heard.is_err(), "{heard:?}");
    }
}

/// A hello frame of alice's device d1, with a token for `ttl_ms`.
pub fn hello(ttl_ms: u64) -> String {
    let token = token("alice", ttl_ms);
    format!(r#"{{"id":1,"hello":{{"token":"{token}","device":"d1","instance":"i","attempt":1}}}}"#)
}

/// A token that counts for `ttl_ms`, the leeway included.
pub fn token(user: &str, ttl_ms: u64) -> String {
    issue(DEV_SECRET, user, None, (cluster::env::clock::wall_ms() + ttl_ms).saturating_sub(5000)).unwrap()
}
