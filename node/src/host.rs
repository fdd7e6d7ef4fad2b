//! The host in an address, as configurations write it.

use std::net::IpAddr;

/// The host of `address` (`host:port`), without the brackets of an IPv6 address.
#[must_use]
pub fn of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Whether `address` (`host:port`) can be reached from this machine only.
#[must_use]
pub fn is_loopback(address: &str) -> bool {
    let host = of(address);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loopback() {
        for local in ["localhost:1", "[::1]:1", "127.1.2.3:1"] {
            assert!(is_loopback(local), "{local}");
        }
        for other in ["example.org:1", "10.0.0.1:1", "[::]:1", "127.0.0.1.example.org:1", ":1"] {
            assert!(!is_loopback(other), "{other}");
        }
    }
}
