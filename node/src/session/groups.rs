//! What a client can want of a group, and what it is answered.

use cluster::id::{GroupId, UserId};
use cluster::session::{MembersPage, MembersRefusal};
use cluster::state::{GroupAct, GroupRefusal};

use crate::protocol::{self, ErrorBody, ErrorCode, ServerBody};

/// Most members told at once: 52 KiB, with names as long as they may be and every byte escaped.
pub const PAGE: usize = 200;

/// While nodes are upgraded, until all know groups.
pub const NO_GROUPS: (ErrorCode, &str) = (ErrorCode::UnknownType, "not all nodes of this cluster know groups yet");

/// A well-formed wish.
pub enum Wish {
    Act(GroupId, GroupAct),
    /// Who is in it, behind this name.
    Members(GroupId, Option<UserId>),
}

impl Wish {
    /// Reads a frame.
    ///
    /// # Errors
    /// When it wants nothing, or several things, or has a name that is none.
    pub fn of(group: &protocol::Group<'_>) -> Result<Self, (ErrorCode, &'static str)> {
        let acts = [
            (&group.create, Some(GroupAct::Create)),
            (&group.join, Some(GroupAct::Join)),
            (&group.leave, Some(GroupAct::Leave)),
            (&group.members, None),
        ];
        let mut named = acts.into_iter().filter_map(|(name, act)| Some((name.as_deref()?, act)));
        let (Some((name, act)), None) = (named.next(), named.next()) else {
            return Err((ErrorCode::BadFrame, "a group frame has one of create, join, leave and members"));
        };
        let bad_name = |_| (ErrorCode::BadRecipient, "a name is 1 to 128 bytes without control characters");
        let group_name = GroupId::new(name).map_err(bad_name)?;
        match act {
            Some(act) => Ok(Self::Act(group_name, act)),
            None => {
                let after = group.after.as_deref().map(UserId::new).transpose().map_err(bad_name)?;
                Ok(Self::Members(group_name, after))
            }
        }
    }
}

/// The answer to a wish that had to be applied.
pub fn answer(result: Result<(), GroupRefusal>) -> ServerBody<'static> {
    match result {
        Ok(()) => ServerBody::Ok(protocol::Ok::default()),
        Err(GroupRefusal::Unknown) => refusal(ErrorCode::UnknownGroup, "there is no such group"),
        Err(GroupRefusal::Exists) => refusal(ErrorCode::GroupExists, "there is such a group already"),
        Err(GroupRefusal::Full) => refusal(ErrorCode::GroupFull, "the group has as many members as it may"),
        Err(GroupRefusal::TooMany) => refusal(ErrorCode::TooManyGroups, "you are in as many groups as you may"),
    }
}

/// The answer to the question who is in a group.
pub fn members_answer(page: &Result<MembersPage, MembersRefusal>) -> ServerBody<'_> {
    match page {
        Ok(page) => {
            let members = page.members.iter().map(|member| member.as_str().into()).collect();
            ServerBody::Ok(protocol::Ok { mid: None, members: Some(members), more: Some(page.more) })
        }
        Err(MembersRefusal::Unknown) => refusal(ErrorCode::UnknownGroup, "there is no such group"),
        Err(MembersRefusal::NotMember) => refusal(ErrorCode::NotMember, "only members know who is in a group"),
    }
}

pub fn refusal(code: ErrorCode, message: &'static str) -> ServerBody<'static> {
    ServerBody::Error(ErrorBody { code, message: message.into() })
}
