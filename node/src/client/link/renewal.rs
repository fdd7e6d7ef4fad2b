//! When a token is to be renewed.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cluster::env::clock::{self, Instant};

/// When a token should be renewed: after three quarters of the time that it has left. `None` for
/// one whose end cannot be read, or that has ended.
pub fn renewal_time(token: &str) -> Option<Instant> {
    #[derive(serde::Deserialize)]
    struct Claims {
        /// Issuers may write fractions.
        exp: f64,
    }
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let Claims { exp } = serde_json::from_slice(&payload).ok()?;
    // Out of range is clamped: a token for ever is one for very long.
    let left_ms = ((exp * 1_000.0) as u64).checked_sub(clock::wall_ms())?;
    Some(clock::now() + Duration::from_millis(left_ms.max(1_000)).mul_f64(0.75))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_renewed_before_it_ends() {
        let token = |exp: u64| format!("h.{}.s", URL_SAFE_NO_PAD.encode(format!("{{\"exp\":{exp}}}")));
        let now_s = clock::wall_ms() / 1_000;
        let at = renewal_time(&token(now_s + 3_600)).expect("a time ahead");
        let wait = at - clock::now();
        assert!(wait > Duration::from_secs(2_600) && wait < Duration::from_secs(2_701), "{wait:?}");
        for other in ["", "a.b.c", "h.e30.s"] {
            assert_eq!(renewal_time(other), None, "{other}");
        }
        assert_eq!(renewal_time(&token(now_s - 1)), None);
        let fraction = URL_SAFE_NO_PAD.encode(format!("{{\"exp\":{}.5}}", now_s + 3_600));
        assert!(renewal_time(&format!("h.{fraction}.s")).is_some());
        let for_ever = URL_SAFE_NO_PAD.encode("{\"exp\":1e300}");
        assert!(renewal_time(&format!("h.{for_ever}.s")).is_some());
    }
}
