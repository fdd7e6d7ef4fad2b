//! What is owed to the client for its sends, and for what it does with groups.
//!
//! Invariant: answers are given in the order of the sends, each once. So a send that is refused by its
//! form waits for the answers of those before it.

use std::collections::VecDeque;

use cluster::id::MessageId;

use super::core::Sending;
use crate::protocol::ErrorCode;

#[derive(Debug)]
enum Answer {
    /// The cluster will tell.
    Awaited { token: u64, id: Option<u64>, mid: Option<MessageId>, trace: Option<Box<Sending>> },
    /// Refused by its form.
    Refused { id: Option<u64>, code: ErrorCode, message: &'static str },
}

/// See the module.
#[derive(Debug, Default)]
pub struct Answers {
    queue: VecDeque<Answer>,
    next_token: u64,
}

impl Answers {
    /// How many are owed.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// A send, or something with a group, goes to the cluster; returns the token by which its answer comes.
    pub fn awaited(&mut self, id: Option<u64>, mid: Option<MessageId>, trace: Option<Box<Sending>>) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        self.queue.push_back(Answer::Awaited { token, id, mid, trace });
        token
    }

    /// A send is refused by its form.
    pub fn refused(&mut self, id: Option<u64>, code: ErrorCode, message: &'static str) {
        self.queue.push_back(Answer::Refused { id, code, message });
    }

    /// The message that is the oldest awaited, if it is one.
    pub fn oldest(&self) -> Option<MessageId> {
        match self.queue.front() {
            Some(Answer::Awaited { mid, .. }) => *mid,
            _ => None,
        }
    }

    /// The oldest awaited, if it is a send that is traced.
    pub fn oldest_trace(&self) -> Option<&Sending> {
        match self.queue.front() {
            Some(Answer::Awaited { trace, .. }) => trace.as_deref(),
            _ => None,
        }
    }

    /// The cluster has answered the oldest request; the frame's id.
    ///
    /// # Panics
    /// When it is not the oldest that was answered.
    pub fn answered(&mut self, token: u64) -> Option<u64> {
        let Some(Answer::Awaited { token: expected, id, .. }) = self.queue.pop_front() else {
            panic!("an answer to a send that was not made: {token}");
        };
        assert_eq!(token, expected, "answers come in the order of the sends");
        self.shrink();
        id
    }

    /// The next answer, if it is one that needs no word of the cluster.
    pub fn next_refused(&mut self) -> Option<(Option<u64>, ErrorCode, &'static str)> {
        let Some(&Answer::Refused { id, code, message }) = self.queue.front() else { return None };
        self.queue.pop_front();
        self.shrink();
        Some((id, code, message))
    }

    /// An idle session keeps no buffer.
    fn shrink(&mut self) {
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
    }
}
