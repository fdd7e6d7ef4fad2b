//! The demo page: its files, and what a browser may do with them. Development mode only.
//!
//! Invariant: the page loads nothing and connects to nobody but nodes on this machine, whatever a
//! message says; and no page from elsewhere gets an answer that it can read.

/// One file of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asset {
    /// Where it is served.
    pub path: &'static str,
    /// Its `Content-Type`.
    pub content_type: &'static str,
    /// What it holds.
    pub text: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// All of them.
pub const ASSETS: [Asset; 8] = [
    Asset { path: "/", content_type: HTML, text: include_str!("../../assets/index.html") },
    Asset { path: "/style.css", content_type: CSS, text: include_str!("../../assets/style.css") },
    Asset { path: "/app.js", content_type: SCRIPT, text: include_str!("../../assets/app.js") },
    Asset { path: "/conversations.js", content_type: SCRIPT, text: include_str!("../../assets/conversations.js") },
    Asset { path: "/dom.js", content_type: SCRIPT, text: include_str!("../../assets/dom.js") },
    Asset { path: "/cluster.js", content_type: SCRIPT, text: include_str!("../../assets/cluster.js") },
    Asset { path: "/tab.js", content_type: SCRIPT, text: include_str!("../../assets/tab.js") },
    Asset { path: "/im-gateway.js", content_type: SCRIPT, text: include_str!("../../assets/im-gateway.js") },
];

/// Headers that go with each of them. The page moves to other nodes of a local cluster, so it may
/// connect to any port of this machine; it may do nothing else.
pub const HEADERS: [(&str, &str); 4] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; \
         connect-src 'self' http://localhost:* http://127.0.0.1:* ws://localhost:* ws://127.0.0.1:*; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("cache-control", "no-store"),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
];

/// Whether an `Origin` header names a page that was served by this machine itself: such a page may
/// read `/admin/status` and `/dev/token` of another node, and open its WebSocket.
#[must_use]
pub fn is_loopback_origin(origin: &str) -> bool {
    let Some(authority) = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")) else {
        return false;
    };
    is_loopback_authority(authority)
}

/// Whether a `Host` header, or the authority of an origin, names this machine itself. Another name
/// that merely leads here is how a foreign page would reach a local server (DNS rebinding).
#[must_use]
pub fn is_loopback_authority(authority: &str) -> bool {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (authority, ""),
    };
    let named = ["localhost", "127.0.0.1", "[::1]"].into_iter().any(|name| host.eq_ignore_ascii_case(name));
    named && port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_that_the_page_asks_for_is_there() {
        for asset in ASSETS {
            for quoted in asset.text.split('"').skip(1).step_by(2) {
                let file = quoted.strip_prefix("./").map(|name| format!("/{name}"));
                let file = file.unwrap_or_else(|| quoted.to_owned());
                if file.starts_with('/') && (file.ends_with(".js") || file.ends_with(".css")) {
                    assert!(ASSETS.iter().any(|asset| asset.path == file), "{} asks for {file}", asset.path);
                }
            }
        }
    }

    #[test]
    fn nothing_comes_from_outside() {
        for asset in ASSETS {
            for forbidden in
                ["innerHTML", "insertAdjacentHTML", "document.write", "src=\"http", "href=\"http", "@import"]
            {
                assert!(!asset.text.contains(forbidden), "{} has {forbidden}", asset.path);
            }
        }
    }

    #[test]
    fn only_this_machine_is_this_machine() {
        for good in [
            "http://localhost:8080",
            "http://127.0.0.1:8081",
            "http://[::1]:80",
            "http://localhost",
            "https://LOCALHOST:1",
        ] {
            assert!(is_loopback_origin(good), "{good}");
        }
        for bad in [
            "",
            "null",
            "http://",
            "http://evil.example",
            "http://localhost.evil.example:8080",
            "http://127.0.0.1.evil.example",
            "http://evil.example/localhost:1",
            "http://localhost:8080.evil.example",
            "http://localhost@evil.example",
            "http://localhost:80@evil.example:80",
            "ftp://localhost:80",
            "localhost:80",
            "http://[::1",
            "http://[::2]:80",
        ] {
            assert!(!is_loopback_origin(bad), "{bad}");
        }
    }
}
