//! Whether the session's token still counts: a newer one in its place, a revocation.

use super::{Core, Moment};
use crate::auth::AuthError;
use crate::protocol::{self, CloseCode, ErrorBody, ErrorCode, ServerBody};
use crate::session::ending::End;
use crate::session::link::Link;

impl Core {
    pub(super) fn refresh(&mut self, id: Option<u64>, token: &str, at: Moment, out: &mut Vec<u8>, link: &impl Link) {
        let checked = self.node.verifier.verify_at(token, at.wall_ms).and_then(|identity| {
            if identity.user != self.user {
                return Err(AuthError::OtherUser);
            }
            identity.device(Some(&self.device))?;
            if identity.is_revoked(link.revoked_before()) { Err(AuthError::Revoked) } else { Ok(identity) }
        });
        self.node.metrics.token_refreshed(checked.is_ok());
        let answer = match checked {
            Ok(identity) => {
                self.identity = identity;
                ServerBody::Ok(protocol::Ok::default())
            }
            Err(error) => {
                self.node.auth_failed(None, &error);
                if error.is_about_keys() {
                    self.node.verifier.look_soon();
                }
                ServerBody::Error(ErrorBody { code: ErrorCode::BadToken, message: error.to_string().into() })
            }
        };
        self.say(id, answer, at, out);
    }

    /// Ends the session if its token is one that was issued before this time.
    ///
    /// # Errors
    /// How the connection ends.
    pub fn check_revoked(&self, before_ms: Option<u64>) -> Result<(), End> {
        if !self.identity.is_revoked(before_ms) {
            return Ok(());
        }
        self.node.auth_failed(None, &AuthError::Revoked);
        self.node.metrics.session_revoked();
        Err(End::Close(CloseCode::BadToken))
    }
}
