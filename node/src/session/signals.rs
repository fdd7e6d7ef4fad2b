//! Typing and read marks, as frames.

use cluster::id::{InvalidName, UserId};
use cluster::signal::News;

use super::groups::refusal;
use crate::protocol::{ErrorCode, ReadBy, ServerBody, TypedBy};

/// What a client is told.
pub fn frame(from: &UserId, news: News) -> ServerBody<'_> {
    match news {
        News::Typing => ServerBody::Typing(TypedBy { from: from.as_str().into() }),
        News::Read(mid) => ServerBody::Read(ReadBy { by: from.as_str().into(), mid }),
    }
}

/// The answer where a user's name is none.
pub fn bad_name(rule: InvalidName) -> ServerBody<'static> {
    refusal(ErrorCode::BadRecipient, rule.0)
}
