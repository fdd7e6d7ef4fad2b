//! What a client can ask for, checked for its form and passed on.
//!
//! Invariant: what is stored is answered in turn, by the log; what is not, at once.

use bytes::Bytes;
use cluster::id::{DeviceId, GroupId, MessageId, UserId};
use cluster::session::{Outgoing, Request};
use cluster::state::Destination;

use super::{Core, Moment};
use crate::protocol::{self, ErrorCode, MAX_KEY_BYTES, ServerBody};
use crate::session::groups::{self, NO_GROUPS, Wish};
use crate::session::link::Link;
use crate::session::signals;
use crate::telemetry::What;

/// Deepest nesting of a body: readers that recurse take no deeper one, and a body is for many readers.
const MAX_BODY_DEPTH: usize = 128;

/// How deep arrays and objects are nested in JSON that is known to be well-formed.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth -= 1,
            _ => {}
        }
    }
    deepest
}

impl Core {
    pub(super) fn send(
        &mut self,
        id: Option<u64>,
        send: &protocol::Send<'_>,
        at: Moment,
        out: &mut Vec<u8>,
        link: &impl Link,
    ) {
        match self.outgoing(send, at) {
            Ok(Outgoing { to: Destination::Group(_), .. }) if !link.has_groups() => {
                self.answers.refused(id, NO_GROUPS.0, NO_GROUPS.1);
            }
            Ok(mut outgoing) => {
                self.note_received(&outgoing);
                let trace = self.begin_trace(&mut outgoing, send.trace.as_deref(), at);
                link.ask(self.answers.awaited(id, Some(outgoing.mid), trace), self.request(outgoing));
            }
            Err((code, message)) => self.answers.refused(id, code, message),
        }
        self.asked(at, out);
    }

    fn note_received(&self, outgoing: &Outgoing) {
        let Outgoing { mid, to, ts_ms, body, .. } = outgoing;
        let (to, group) = match to {
            Destination::User(user) => (Some(user.clone()), None),
            Destination::Group(group) => (None, Some(group.clone())),
        };
        self.note(*ts_ms, What::Received { mid: *mid, to, group, bytes: body.len() });
    }

    /// What the log is asked for: that the message be stored, or that it fail, where a drill wants so.
    fn request(&self, outgoing: Outgoing) -> Request {
        let direct = matches!(outgoing.to, Destination::User(_));
        let fails = self.node.hooks.as_ref().is_some_and(|hooks| direct && hooks.fails(&outgoing.mid));
        if fails { Request::Refuse(outgoing.mid) } else { Request::Send(outgoing) }
    }

    /// A request has taken its place.
    fn asked(&mut self, at: Moment, out: &mut Vec<u8>) {
        self.answer_refused(at, out);
        self.unanswered.set(self.answers.len());
    }

    /// A send as the cluster takes it, or why its form is wrong.
    fn outgoing(&self, send: &protocol::Send<'_>, at: Moment) -> Result<Outgoing, (ErrorCode, &'static str)> {
        if !(1..=MAX_KEY_BYTES).contains(&send.key.len()) {
            return Err((ErrorCode::BadKey, "a key is 1 to 64 bytes long"));
        }
        let bad_name = |_| (ErrorCode::BadRecipient, "a recipient is 1 to 128 bytes without control characters");
        let body = send.body.get().as_bytes();
        if depth(body) > MAX_BODY_DEPTH {
            return Err((ErrorCode::BadFrame, "the body is nested deeper than 128 levels"));
        }
        let (mid, to) = match (&send.to, &send.group) {
            (Some(to), None) => {
                let to = UserId::new(to).map_err(bad_name)?;
                (MessageId::direct(&self.user, &self.device, &to, &send.key, body), Destination::User(to))
            }
            (None, Some(group)) => {
                let group = GroupId::new(group).map_err(bad_name)?;
                (MessageId::group(&self.user, &self.device, &group, &send.key, body), Destination::Group(group))
            }
            _ => return Err((ErrorCode::BadRecipient, "a send names either a user or a group")),
        };
        let body = Bytes::copy_from_slice(body);
        Ok(Outgoing { mid, to, ts_ms: at.wall_ms, body, arrived: at.now, trace: None })
    }

    /// Something with a group. Who is in it is answered at once, as this node knows it; all else in turn.
    pub(super) fn group(
        &mut self,
        id: Option<u64>,
        group: &protocol::Group<'_>,
        at: Moment,
        out: &mut Vec<u8>,
        link: &impl Link,
    ) {
        match Wish::of(group) {
            Ok(_) if !link.has_groups() => self.answers.refused(id, NO_GROUPS.0, NO_GROUPS.1),
            Ok(Wish::Act(group, act)) => link.ask(self.answers.awaited(id, None, None), Request::Group { group, act }),
            Ok(Wish::Members(group, after)) => {
                let page = link.members(&group, after.as_ref(), groups::PAGE);
                self.say(id, groups::members_answer(&page), at, out);
            }
            Err((code, message)) => self.answers.refused(id, code, message),
        }
        self.asked(at, out);
    }

    pub(super) fn forget(&mut self, id: Option<u64>, device: &str, at: Moment, out: &mut Vec<u8>, link: &impl Link) {
        match DeviceId::new(device) {
            Ok(device) if device == self.device => {
                let message = "a device does not forget itself: it leaves as an ephemeral one";
                self.answers.refused(id, ErrorCode::BadRecipient, message);
            }
            Ok(device) => link.ask(self.answers.awaited(id, None, None), Request::Forget(device)),
            Err(rule) => self.answers.refused(id, ErrorCode::BadRecipient, rule.0),
        }
        self.asked(at, out);
    }

    pub(super) fn typing(&mut self, id: Option<u64>, to: &str, at: Moment, out: &mut Vec<u8>, link: &impl Link) {
        match UserId::new(to) {
            Ok(to) => link.typing(&to),
            Err(rule) => self.say(id, signals::bad_name(rule), at, out),
        }
    }

    pub(super) fn read(
        &mut self,
        id: Option<u64>,
        read: &protocol::Read<'_>,
        at: Moment,
        out: &mut Vec<u8>,
        link: &impl Link,
    ) {
        let answer = match UserId::new(&read.from) {
            Ok(sender) => {
                link.read_mark(&sender, read.mid);
                ServerBody::Ok(protocol::Ok::default())
            }
            Err(rule) => signals::bad_name(rule),
        };
        if id.is_some() {
            self.say(id, answer, at, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::depth;

    #[test]
    fn depth_counts_brackets_outside_strings() {
        assert_eq!(depth(br#""[{""#), 0);
        assert_eq!(depth(br#"[{"a[":"\"]["},[]]"#), 2);
        assert_eq!(depth("[".repeat(7).as_bytes()), 7);
    }
}
