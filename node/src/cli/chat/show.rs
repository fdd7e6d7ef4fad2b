//! What the conversation shows: messages, and in dim letters what became of one's own.

use cluster::env::clock;
use im_gateway::client::{Event, Fate, Incoming, Stopped};
use im_gateway::protocol::ErrorCode;
use serde_json::Value;

use super::super::failure::{Failure, failed};
use super::super::process::print;
use super::Chat;

/// Sent messages remembered for their delivery mark.
const MARKS: usize = 1_000;

impl Chat {
    pub(super) fn show_fate(&mut self, number: u64, since: clock::Instant, fate: Fate) -> Result<(), Failure> {
        let took = since.elapsed().as_millis();
        self.troubled |= !matches!(fate, Fate::Stored(_) | Fate::Done);
        match fate {
            Fate::Done => self.note(&format!("✓ {number} done, {took} ms")),
            Fate::Stored(mid) => {
                if self.stored.len() >= MARKS {
                    self.stored.pop_front();
                }
                self.stored.push_back((mid, number, since));
                self.note(&format!("✓ {number} stored, {took} ms, as {mid}"))
            }
            Fate::Refused { message, .. } => self.note(&format!("✗ {number} refused: {message}")),
            Fate::TooLarge { frame_bytes } => {
                self.note(&format!("✗ {number} not sent: larger than the node's {frame_bytes} bytes"))
            }
            Fate::Unknown => self.note(&format!("? {number} has no answer; it may be delivered or not")),
            Fate::NotSent => self.note(&format!("✗ {number} was not sent")),
        }
    }

    pub(super) fn show(&mut self, event: Event) -> Result<(), Failure> {
        match event {
            Event::Message(message) => {
                let group = message.group.as_ref().map_or_else(String::new, |group| format!("[{}] ", visible(group)));
                // What another device of this user wrote to somebody else.
                let elsewhere = message.to.as_ref().filter(|to| **to != self.user);
                let to = elsewhere.map_or_else(String::new, |to| format!(" to {}", visible(to)));
                print(&format!("{group}{}{to}: {}", visible(&message.from), text_of(&message)))
            }
            Event::Gap { lost, .. } => self.note(&format!("… {lost} messages are missing here")),
            Event::Typing { .. } | Event::Read { .. } => Ok(()),
            Event::Presence { devices, .. } if self.online == Some(devices > 0) => Ok(()),
            Event::Presence { user, devices, .. } => {
                self.online = Some(devices > 0);
                self.note(&format!("{} is {}", visible(&user), if devices > 0 { "online" } else { "offline" }))
            }
            Event::WatchRefused { users, .. } => {
                self.note(&format!("not told whether {} is online", visible(&users.join(", "))))
            }
            Event::RefreshRefused { message } => {
                self.note(&format!("the new token was not taken: {}", visible(&message)))
            }
            Event::Delivered { mid, by } => {
                let Some(index) = self.stored.iter().position(|(known, ..)| *known == mid) else { return Ok(()) };
                let (_, number, since) = self.stored.remove(index).expect("it was found there");
                let took = since.elapsed().as_millis();
                self.note(&format!("✓✓ {number} delivered to {}, {took} ms", visible(&by)))
            }
            Event::Connected { node, address, .. } => {
                self.obstacles.clear();
                self.note(&format!("connected to node {node} at {address}"))
            }
            Event::Disconnected { reason } if self.obstacles.contains(&reason) => Ok(()),
            Event::Disconnected { reason } => {
                self.note(&format!("{reason}; trying again, and keeping what you write"))?;
                self.obstacles.push(reason);
                Ok(())
            }
            Event::Stopped(Stopped::Closed) => Ok(()),
            Event::Stopped(Stopped::Refused { code, reason }) => failed(match code {
                4500 => format!("{reason}; sign tokens with the node's secret (IMGW_JWT_SECRET), or give --token"),
                4501 => format!("{reason}; give a new --token"),
                4502 => format!("{reason}; run this one with another --device than \"{}\"", self.device),
                _ => format!("the node ended the session: {code} {reason}"),
            }),
        }
    }

    pub(super) fn note(&self, text: &str) -> Result<(), Failure> {
        let (dim, normal) = self.style;
        print(&format!("{dim}  {text}{normal}"))
    }
}

/// A message's text: what people wrote, or else its JSON.
fn text_of(message: &Incoming) -> String {
    let body: Value = serde_json::from_str(message.body.get()).unwrap_or(Value::Null);
    match &body {
        Value::String(text) => visible(text),
        Value::Object(fields) => match &fields.get("text") {
            Some(Value::String(text)) => visible(text),
            _ => visible(message.body.get()),
        },
        _ => visible(message.body.get()),
    }
}

/// Why nobody says who is in a group.
pub fn untold(code: ErrorCode) -> String {
    match code {
        ErrorCode::UnknownGroup => "there is no such group".to_owned(),
        ErrorCode::NotMember => "only members are told who is in it".to_owned(),
        other => format!("{other:?}"),
    }
}

/// Text of others must not command our terminal.
pub fn visible(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
