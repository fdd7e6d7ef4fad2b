//! The first frame: who is it, and which device. Pure.

use cluster::id::DeviceId;
use cluster::session::SessionSpec;

use crate::auth::{AuthError, Identity, Verifier};
use crate::protocol::{ClientBody, ClientFrame, CloseCode, ErrorBody, ErrorCode, Hello, ServerBody, ServerFrame};

/// A client that may have a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// The session it asks for.
    pub spec: SessionSpec,
    /// Whom its token names.
    pub identity: Identity,
    /// The frame's id, for the answer.
    pub id: Option<u64>,
}

/// A client that may not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The frame's id, for the answer.
    pub id: Option<u64>,
    /// Told in an `error` frame.
    pub error: ErrorCode,
    /// Told in an `error` frame.
    pub message: String,
    /// What the connection is then closed with.
    pub close: CloseCode,
    /// What was wrong with the token, if that was it.
    pub auth: Option<AuthError>,
}

impl Rejection {
    fn protocol(id: Option<u64>, error: ErrorCode, message: impl Into<String>) -> Self {
        Self { id, error, message: message.into(), close: CloseCode::Protocol, auth: None }
    }

    /// Because of its token.
    pub fn auth(id: Option<u64>, error: AuthError) -> Self {
        let close = if error == AuthError::Expired { CloseCode::TokenExpired } else { CloseCode::BadToken };
        Self { id, error: ErrorCode::BadToken, message: error.to_string(), close, auth: Some(error) }
    }

    /// The `error` frame.
    pub fn frame(&self) -> ServerFrame<'_> {
        let body = ErrorBody { code: self.error, message: self.message.as_str().into() };
        ServerFrame { id: self.id, body: ServerBody::Error(body) }
    }
}

/// Reads the first frame. `header` is whom the HTTP header's token named, if there was one; a
/// token in the frame counts before it. `fresh` stands for the instance of a client that names none.
///
/// # Errors
/// How to turn the client away.
pub fn greet(
    text: &str,
    header: Option<&Identity>,
    verifier: &Verifier,
    wall_ms: u64,
    fresh: u64,
) -> Result<Greeting, Rejection> {
    let frame = ClientFrame::decode(text).map_err(|error| Rejection::protocol(error.id, error.code, error.message))?;
    let id = frame.id;
    let ClientBody::Hello(hello) = frame.body else {
        return Err(Rejection::protocol(id, ErrorCode::BadFrame, "the first frame must be a hello"));
    };
    let identity = match (&hello.token, header) {
        (Some(token), _) => verifier.verify_at(token, wall_ms).map_err(|error| Rejection::auth(id, error))?,
        (None, Some(identity)) if wall_ms >= identity.expires_ms => {
            return Err(Rejection::auth(id, AuthError::Expired));
        }
        (None, Some(identity)) => identity.clone(),
        (None, None) => return Err(Rejection::auth(id, AuthError::Missing)),
    };
    let claimed = hello.device.as_deref().map(DeviceId::new).transpose();
    let claimed = claimed.map_err(|error| Rejection::protocol(id, ErrorCode::BadFrame, error.to_string()))?;
    let device = identity.device(claimed.as_ref()).map_err(|error| Rejection::auth(id, error))?;
    let device = device.ok_or_else(|| {
        Rejection::protocol(id, ErrorCode::BadFrame, "hello must name a device, because the token does not")
    })?;
    let spec = SessionSpec {
        user: identity.user.clone(),
        device,
        instance: hello.instance.as_deref().map_or(fresh, Hello::instance_hash),
        attempt: hello.attempt,
        ephemeral: hello.ephemeral,
    };
    Ok(Greeting { spec, identity, id })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{AuthConfig, DEV_SECRET, issue};

    const NOW_MS: u64 = 1_767_225_600_000;

    fn check(text: &str, header: Option<&Identity>) -> Result<Greeting, Rejection> {
        greet(text, header, &Verifier::new(&AuthConfig::default()).unwrap(), NOW_MS, 7)
    }

    fn token(device: Option<&str>, expires_ms: u64) -> String {
        issue(DEV_SECRET, "alice", device, expires_ms).unwrap()
    }

    #[test]
    fn a_good_hello_asks_for_a_session() {
        let token = token(None, NOW_MS + 60_000);
        let hello = format!(
            r#"{{"id":1,"hello":{{"token":"{token}","device":"d1","instance":"i","attempt":4,"ephemeral":true}}}}"#
        );
        let greeting = check(&hello, None).unwrap();
        assert_eq!((greeting.spec.user.as_str(), greeting.spec.device.as_str()), ("alice", "d1"));
        assert_eq!((greeting.spec.instance, greeting.spec.attempt), (Hello::instance_hash("i"), 4));
        assert!(greeting.spec.ephemeral && greeting.id == Some(1));
        let again = check(r#"{"hello":{"device":"d2"}}"#, Some(&greeting.identity)).unwrap();
        assert_eq!((again.spec.device.as_str(), again.spec.instance, again.spec.attempt), ("d2", 7, 1));
    }

    #[test]
    fn a_token_can_name_the_device() {
        let token = token(Some("phone"), NOW_MS + 60_000);
        let greeting = check(&format!(r#"{{"hello":{{"token":"{token}"}}}}"#), None).unwrap();
        assert_eq!(greeting.spec.device.as_str(), "phone");
        let other = check(&format!(r#"{{"hello":{{"token":"{token}","device":"tablet"}}}}"#), None).unwrap_err();
        assert_eq!((other.error, other.close), (ErrorCode::BadToken, CloseCode::BadToken));
    }

    #[test]
    fn others_are_turned_away_with_a_reason() {
        let code = |text: &str| {
            let rejection = check(text, None).unwrap_err();
            (rejection.id, rejection.error, rejection.close)
        };
        let protocol = |id, error| (id, error, CloseCode::Protocol);
        assert_eq!(code("{"), protocol(None, ErrorCode::BadFrame));
        assert_eq!(code(r#"{"id":3,"ack":1}"#), protocol(Some(3), ErrorCode::BadFrame));
        assert_eq!(code(r#"{"id":3,"hi":{}}"#), protocol(Some(3), ErrorCode::UnknownType));
        assert_eq!(code(r#"{"id":3,"hello":{}}"#), (Some(3), ErrorCode::BadToken, CloseCode::BadToken));
        assert_eq!(
            code(r#"{"hello":{"token":"a.b.c","device":"d"}}"#),
            (None, ErrorCode::BadToken, CloseCode::BadToken)
        );
        let late = format!(r#"{{"hello":{{"token":"{}","device":"d"}}}}"#, token(None, NOW_MS - 5000));
        assert_eq!(code(&late), (None, ErrorCode::BadToken, CloseCode::TokenExpired));
        let good = token(None, NOW_MS + 5000);
        for device in [r"", r#","device":"""#, r#","device":"a\u0000b""#] {
            let hello = format!(r#"{{"hello":{{"token":"{good}"{device}}}}}"#);
            assert_eq!(code(&hello), protocol(None, ErrorCode::BadFrame), "{device}");
        }
    }
}
