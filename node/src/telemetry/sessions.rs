//! What this node counts of its sessions, messages aside.

use cluster::observer::Forgotten;
use cluster::signal::News;
use prometheus::{IntCounter, IntCounterVec};

use super::metrics::{Maker, Metrics};
use crate::protocol::ErrorCode;

/// Values of the label `kind` of signals.
const SIGNALS: [&str; 2] = ["typing", "read"];
/// Values of the label `outcome` of signals.
const OUTCOMES: [&str; 2] = ["told", "dropped"];
/// Values of the label `outcome` of tokens that were to be refreshed.
const REFRESHES: [&str; 2] = ["ok", "refused"];
/// Values of the label `reason` of devices that are remembered no more.
const FORGOTTEN: [&str; 3] = ["request", "left", "age"];

/// Which rate a client has used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    /// Its connection's.
    Connection,
    /// Its user's, over all connections to the node.
    User,
}

impl Rate {
    const ALL: [Self; 2] = [Self::Connection, Self::User];

    const fn label(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::User => "user",
        }
    }
}

/// Why a client was told to go away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// The node drains: the client has time.
    Drain,
    /// The connection ends now.
    End,
}

impl Leaving {
    const ALL: [Self; 2] = [Self::Drain, Self::End];

    const fn label(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::End => "end",
        }
    }
}

fn kind(news: News) -> &'static str {
    match news {
        News::Typing => "typing",
        News::Read(_) => "read",
    }
}

/// Metrics of sessions.
pub(super) struct Sessions {
    errors: IntCounterVec,
    signals: IntCounterVec,
    held_back: IntCounterVec,
    go_aways: IntCounterVec,
    refreshes: IntCounterVec,
    revoked: IntCounter,
    forgotten: IntCounterVec,
}

impl Sessions {
    pub fn new(make: &Maker<'_>) -> Self {
        let sessions = Self {
            errors: make.counters(
                "im_gateway_error_answers_total",
                "Frames of sessions of this node that were answered with an error, by its code",
                &["code"],
            ),
            signals: make.counters(
                "im_gateway_signals_total",
                "Typing and read marks: told to sessions of this node, or dropped where there was no room on the way or there",
                &["kind", "outcome"],
            ),
            held_back: make.counters(
                "im_gateway_held_back_total",
                "Frames after which a rate was used up: the next one of the connection had to wait",
                &["rate"],
            ),
            go_aways: make.counters("im_gateway_go_away_total", "Clients that were told to go elsewhere", &["reason"]),
            refreshes: make.counters(
                "im_gateway_token_refreshes_total",
                "Tokens that clients brought before the old one ended",
                &["outcome"],
            ),
            revoked: make.counter(
                "im_gateway_sessions_revoked_total",
                "Sessions of this node that ended because their token was revoked",
            ),
            forgotten: make.counters(
                "im_gateway_devices_forgotten_total",
                "Devices that are remembered no more, by why",
                &["reason"],
            ),
        };
        for code in ErrorCode::ALL {
            sessions.errors.with_label_values(&[code.name()]);
        }
        for kind in SIGNALS {
            for outcome in OUTCOMES {
                sessions.signals.with_label_values(&[kind, outcome]);
            }
        }
        for rate in Rate::ALL {
            sessions.held_back.with_label_values(&[rate.label()]);
        }
        for leaving in Leaving::ALL {
            sessions.go_aways.with_label_values(&[leaving.label()]);
        }
        for outcome in REFRESHES {
            sessions.refreshes.with_label_values(&[outcome]);
        }
        for reason in FORGOTTEN {
            sessions.forgotten.with_label_values(&[reason]);
        }
        sessions
    }
}

impl Metrics {
    /// A session's client was told that what it asked for is refused.
    pub fn answered_with(&self, code: ErrorCode) {
        self.sessions.errors.with_label_values(&[code.name()]).inc();
    }

    /// A session's client was told of somebody's typing or reading; or there was no room for it.
    pub fn signal(&self, news: News, told: bool) {
        let outcome = OUTCOMES[usize::from(!told)];
        self.sessions.signals.with_label_values(&[kind(news), outcome]).inc();
    }

    /// After a frame a connection has to wait.
    pub fn held_back(&self, by: Rate) {
        self.sessions.held_back.with_label_values(&[by.label()]).inc();
    }

    /// A client was told to go elsewhere.
    pub fn go_away(&self, why: Leaving) {
        self.sessions.go_aways.with_label_values(&[why.label()]).inc();
    }

    /// A client brought another token, which was taken or not.
    pub fn token_refreshed(&self, taken: bool) {
        self.sessions.refreshes.with_label_values(&[REFRESHES[usize::from(!taken)]]).inc();
    }

    /// A session ended because its token was revoked.
    pub fn session_revoked(&self) {
        self.sessions.revoked.inc();
    }

    pub(super) fn device_forgotten(&self, why: Forgotten) {
        let reason = match why {
            Forgotten::Request => "request",
            Forgotten::Left => "left",
            Forgotten::Age => "age",
        };
        self.sessions.forgotten.with_label_values(&[reason]).inc();
    }
}
