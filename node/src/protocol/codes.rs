//! The numbers and words by which the two sides tell each other what went wrong.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The `code` of an `error` frame. Every error is final: nobody has seen the message or will.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// Not a frame of this protocol.
    BadFrame,
    /// A frame of a type that this node does not know.
    UnknownType,
    /// `to` is not a user's name, or both or neither of `to` and `group` are given.
    BadRecipient,
    /// `key` is not 1 to 64 bytes long.
    BadKey,
    /// The recipient's inbox is full.
    InboxFull,
    /// No such group.
    UnknownGroup,
    /// The group is there already.
    GroupExists,
    /// Not a member of the group.
    NotMember,
    /// The group has as many members as it may.
    GroupFull,
    /// The user is in as many groups as it may.
    TooManyGroups,
    /// The session watches as many users as it may.
    TooManyWatches,
    /// The token is malformed, wrongly signed, expired or somebody else's.
    BadToken,
    /// A code of a newer node.
    #[serde(other)]
    Other,
}

impl ErrorCode {
    /// Every code of this build.
    pub const ALL: [Self; 12] = [
        Self::BadFrame,
        Self::UnknownType,
        Self::BadRecipient,
        Self::BadKey,
        Self::InboxFull,
        Self::UnknownGroup,
        Self::GroupExists,
        Self::NotMember,
        Self::GroupFull,
        Self::TooManyGroups,
        Self::TooManyWatches,
        Self::BadToken,
    ];

    /// As on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadFrame => "bad_frame",
            Self::UnknownType => "unknown_type",
            Self::BadRecipient => "bad_recipient",
            Self::BadKey => "bad_key",
            Self::InboxFull => "inbox_full",
            Self::UnknownGroup => "unknown_group",
            Self::GroupExists => "group_exists",
            Self::NotMember => "not_member",
            Self::GroupFull => "group_full",
            Self::TooManyGroups => "too_many_groups",
            Self::TooManyWatches => "too_many_watches",
            Self::BadToken => "bad_token",
            Self::Other => "other",
        }
    }
}

/// Why a WebSocket is closed. 4000–4499: reconnect; 4500–4999: stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum CloseCode {
    /// The client is done.
    Normal = 1000,
    /// An end goes away.
    GoingAway = 1001,
    /// Not a WebSocket's bytes.
    Framing = 1002,
    /// A binary frame.
    Binary = 1003,
    /// Text that is not UTF-8.
    NotUtf8 = 1007,
    /// A frame over `frame_bytes`.
    TooLarge = 1009,
    /// The node restarts: reconnect after a random 0–`after_ms`.
    Restart = 1012,
    /// The node is overloaded.
    Overload = 1013,
    /// The node starts or drains, or cannot reach the quorum.
    Unavailable = 4001,
    /// The client was silent for too long.
    PingTimeout = 4002,
    /// No `hello` in time.
    HelloTimeout = 4003,
    /// The client does not read, and does not answer.
    Slow = 4004,
    /// A newer attempt of this client is already there.
    OlderAttempt = 4005,
    /// The token is malformed, wrongly signed, or for another device.
    BadToken = 4500,
    /// The token's time is over.
    TokenExpired = 4501,
    /// A newer session of the same device took over, or the device was forgotten.
    Superseded = 4502,
    /// The client broke the protocol.
    Protocol = 4503,
    /// The user has as many devices as it may.
    TooManyDevices = 4504,
}

impl CloseCode {
    /// Every code.
    pub const ALL: [Self; 18] = [
        Self::Normal,
        Self::GoingAway,
        Self::Framing,
        Self::Binary,
        Self::NotUtf8,
        Self::TooLarge,
        Self::Restart,
        Self::Overload,
        Self::Unavailable,
        Self::PingTimeout,
        Self::HelloTimeout,
        Self::Slow,
        Self::OlderAttempt,
        Self::BadToken,
        Self::TokenExpired,
        Self::Superseded,
        Self::Protocol,
        Self::TooManyDevices,
    ];

    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// The code of this number, if it is one of ours.
    #[must_use]
    pub fn from_code(code: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.code() == code)
    }

    /// Whether a client that is closed with it should connect again. Of numbers that are not
    /// listed, 4500–4999 mean no and all others yes.
    #[must_use]
    pub fn reconnect(code: u16) -> bool {
        !(4500..=4999).contains(&code) && ![1000, 1003, 1009].contains(&code)
    }

    /// A word for metrics and logs.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Normal => "client_disconnect",
            Self::GoingAway => "going_away",
            Self::Framing => "bad_framing",
            Self::Binary => "binary_frame",
            Self::NotUtf8 => "not_utf8",
            Self::TooLarge => "frame_too_large",
            Self::Restart => "restart",
            Self::Overload => "overload",
            Self::Unavailable => "unavailable",
            Self::PingTimeout => "ping_timeout",
            Self::HelloTimeout => "hello_timeout",
            Self::Slow => "slow_consumer",
            Self::OlderAttempt => "older_attempt",
            Self::BadToken => "bad_token",
            Self::TokenExpired => "token_expired",
            Self::Superseded => "superseded",
            Self::Protocol => "protocol_violation",
            Self::TooManyDevices => "too_many_devices",
        }
    }

    /// A sentence for the close frame and for people.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Normal => "goodbye",
            Self::GoingAway => "going away",
            Self::Framing => "not the WebSocket protocol",
            Self::Binary => "binary frames are not part of this protocol",
            Self::NotUtf8 => "the text is not UTF-8",
            Self::TooLarge => "the frame is larger than frame_bytes",
            Self::Restart => "the node restarts; reconnect",
            Self::Overload => "the node is overloaded; reconnect later",
            Self::Unavailable => "the node is not ready, or cannot reach the quorum; reconnect elsewhere",
            Self::PingTimeout => "no sign of life in time",
            Self::HelloTimeout => "no hello in time",
            Self::Slow => "slow and unresponsive",
            Self::OlderAttempt => "a newer attempt of this client is already there",
            Self::BadToken => "bad token",
            Self::TokenExpired => "the token expired",
            Self::Superseded => "replaced by a newer session of the same device, or the device was forgotten",
            Self::Protocol => "protocol violation",
            Self::TooManyDevices => "too many devices",
        }
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code(), self.text())
    }
}
