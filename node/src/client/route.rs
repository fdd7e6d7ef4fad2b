//! Where to connect next, and when: a pure core.
//!
//! Invariant: all addresses are tried before one is tried again, in an order that each client draws
//! for itself, anew with each loss; the first loss of a good connection costs a moment, and attempts
//! that keep failing grow rarer up to a bound, each client at its own random pace. So a crowd of them
//! comes back neither in step nor to one node.

use std::time::Duration;

use http::Uri;

/// A connection that lasted this long was good: its loss starts the count of failures anew.
const STABLE: Duration = Duration::from_secs(2);
/// Longest pause after a good connection was lost: a dead node's clients come to the others over this
/// time, and within a second all the same.
const AFTER_LOSS: Duration = Duration::from_millis(200);
/// Pause between the addresses while each is tried for the first time.
const FIRST_ROUND: Duration = Duration::from_millis(50);
/// Pause after each has failed once; doubles with each failure.
const BASE: Duration = Duration::from_millis(100);
/// Longest pause.
const CAP: Duration = Duration::from_secs(5);

/// A node's address, from a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// `host:port`.
    pub authority: String,
    /// Of the WebSocket, such as `/ws`.
    pub path: String,
    /// Whether its streams are secured by TLS.
    pub tls: bool,
}

/// A URL that is no node's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    /// Not of the right form.
    #[error("\"{0}\" is not a node's URL such as http://127.0.0.1:8080 or ws://127.0.0.1:8080/ws")]
    Form(String),
    /// TLS, and nothing to speak it with.
    #[error("\"{0}\" asks for TLS, and this client was given nothing to speak it with")]
    Tls(String),
    /// None given.
    #[error("no URL of a node was given")]
    None,
}

impl Address {
    /// Reads `ws://host:port/ws`, `http://host:port`, `host:port`, or with TLS `wss://`, `https://`.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(url: &str) -> Result<Self, BadUrl> {
        let wrong = || BadUrl::Form(url.to_owned());
        let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let uri: Uri = full.parse().map_err(|_| wrong())?;
        let (tls, port) = match uri.scheme_str() {
            Some("http" | "ws") => (false, 80),
            Some("https" | "wss") => (true, 443),
            _ => return Err(wrong()),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(wrong)?;
        let path = if uri.path() == "/" { "/ws" } else { uri.path() };
        Ok(Self { authority: format!("{host}:{}", uri.port_u16().unwrap_or(port)), path: path.to_owned(), tls })
    }

    /// The node's HTTP URL, without a path.
    #[must_use]
    pub fn base(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.authority)
    }
}

/// The addresses of a cluster, and how connecting has gone so far.
#[derive(Debug, Clone)]
pub struct Route {
    addresses: Vec<Address>,
    current: usize,
    failures: u32,
}

impl Route {
    /// Begins at the address of index `start`, modulo their number.
    ///
    /// # Errors
    /// URLs that are none, or none at all.
    pub fn new(urls: &[String], start: usize) -> Result<Self, BadUrl> {
        let addresses: Vec<_> = urls.iter().map(|url| Address::parse(url)).collect::<Result<_, _>>()?;
        let current = start.checked_rem(addresses.len()).ok_or(BadUrl::None)?;
        Ok(Self { addresses, current, failures: 0 })
    }

    /// An address that wants TLS, if there is one.
    #[must_use]
    pub fn secured(&self) -> Option<&Address> {
        self.addresses.iter().find(|address| address.tls)
    }

    /// The address to connect to.
    #[must_use]
    pub fn current(&self) -> &Address {
        &self.addresses[self.current]
    }

    /// A connection on which we were welcome ended after `lived`. Moves on to any other address and
    /// says how long to wait. `random` gives numbers in 0..1.
    pub fn lost(&mut self, lived: Duration, mut random: impl FnMut() -> f64) -> Duration {
        if lived < STABLE {
            return self.failed(random());
        }
        self.failures = 0;
        self.shuffle(&mut random);
        self.advance();
        AFTER_LOSS.mul_f64(random())
    }

    /// No connection came about. Moves on and says how long to wait. `random` is in 0..1.
    pub fn failed(&mut self, random: f64) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.advance();
        let count = u32::try_from(self.addresses.len()).unwrap_or(u32::MAX);
        match self.failures.checked_sub(count) {
            None => FIRST_ROUND.mul_f64(random),
            Some(rounds) => (BASE * (1 << rounds.min(10))).min(CAP).mul_f64(0.25 + 0.75 * random),
        }
    }

    /// The node told us where to go: there next, whether we knew that address or not. Its word does not
    /// bring us from TLS into the clear, nor the other way.
    pub fn prefer(&mut self, url: &str) {
        let Some(address) = Address::parse(url).ok().filter(|address| address.tls == self.current().tls) else {
            return;
        };
        self.current = match self.addresses.iter().position(|known| *known == address) {
            Some(index) => index,
            None if self.addresses.len() < 64 => {
                self.addresses.push(address);
                self.addresses.len() - 1
            }
            None => return,
        };
    }

    /// Draws anew in which order the other addresses come after the present one. `random` gives numbers
    /// in 0..1.
    pub fn shuffle(&mut self, mut random: impl FnMut() -> f64) {
        let last = self.addresses.len() - 1;
        self.addresses.swap(self.current, last);
        self.current = last;
        for index in (1..last).rev() {
            let other = (random() * (index + 1) as f64) as usize;
            self.addresses.swap(index, other.min(index));
        }
    }

    /// The next address's turn.
    pub fn advance(&mut self) {
        self.current = (self.current + 1) % self.addresses.len();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn route(count: usize) -> Route {
        let urls: Vec<_> = (0..count).map(|index| format!("ws://n{index}:1/ws")).collect();
        Route::new(&urls, 0).expect("good URLs")
    }

    #[test]
    fn urls() {
        let parts = |url| Address::parse(url).map(|address| (address.authority, address.path));
        let good = |authority: &str, path: &str| Ok((authority.to_owned(), path.to_owned()));
        assert_eq!(parts("http://127.0.0.1:8080"), good("127.0.0.1:8080", "/ws"));
        assert_eq!(parts("ws://n1:1/chat/ws"), good("n1:1", "/chat/ws"));
        assert_eq!(parts("n1:1"), good("n1:1", "/ws"));
        assert_eq!(parts("http://n1"), good("n1:80", "/ws"));
        assert_eq!(parts("http://[::1]:8080/"), good("[::1]:8080", "/ws"));
        assert_eq!(parts("https://n1"), good("n1:443", "/ws"));
        assert_eq!(parts("wss://n1:8443/chat"), good("n1:8443", "/chat"));
        assert!(Address::parse("wss://n1").is_ok_and(|address| address.tls && address.base() == "https://n1:443"));
        for wrong in ["", "http://", "ftp://n1", "http://a b"] {
            assert!(matches!(parts(wrong), Err(BadUrl::Form(_))), "{wrong}");
        }
        assert!(matches!(Route::new(&[], 3), Err(BadUrl::None)));
    }

    #[test]
    fn the_first_loss_costs_a_moment_and_leads_to_any_other_address() {
        let mut reached = BTreeSet::new();
        for random in [0.0, 0.4, 0.6, 1.0] {
            let mut route = route(4);
            assert_eq!(route.lost(Duration::from_secs(60), || random), AFTER_LOSS.mul_f64(random));
            reached.insert(route.current().authority.clone());
        }
        assert_eq!(reached, BTreeSet::from(["n1:1", "n2:1", "n3:1"].map(str::to_owned)));
        let mut alone = route(1);
        assert_eq!(alone.lost(Duration::from_secs(60), || 1.0), AFTER_LOSS);
        assert_eq!(alone.current().authority, "n0:1");
    }

    #[test]
    fn all_are_tried_before_one_is_tried_again() {
        let mut numbers = (1_u32..).map(|n| f64::from(n) * 0.37 % 1.0);
        let mut route = route(5);
        for _ in 0..20 {
            let lost = route.current().clone();
            route.lost(STABLE, || numbers.next().expect("it has no end"));
            let mut tried = Vec::new();
            for _ in 0..10 {
                tried.push(route.current().authority.clone());
                route.failed(0.5);
            }
            assert_eq!(tried[..5].iter().collect::<BTreeSet<_>>().len(), 5, "{tried:?}");
            assert_eq!((&tried[..5], &tried[4]), (&tried[5..], &lost.authority));
        }
    }

    #[test]
    fn failures_try_all_quickly_and_then_slow_down_to_the_bound() {
        let mut route = route(3);
        let waits: Vec<_> = (0..12).map(|_| route.failed(1.0)).collect();
        assert_eq!(waits[..3], [FIRST_ROUND, FIRST_ROUND, BASE]);
        assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(waits[11], CAP);
        assert_eq!(route.failed(0.0), CAP / 4);
        assert_eq!(route.lost(STABLE, || 1.0), AFTER_LOSS);
        assert_eq!(route.failed(1.0), FIRST_ROUND);
    }

    #[test]
    fn a_connection_that_dies_young_counts_as_a_failure() {
        let mut route = route(1);
        let waits: Vec<_> = (0..3).map(|_| route.lost(Duration::from_millis(5), || 1.0)).collect();
        assert_eq!(waits, [BASE, BASE * 2, BASE * 4]);
    }

    #[test]
    fn a_node_can_say_where_to_go() {
        let mut route = route(2);
        route.prefer("ws://n9:1/ws");
        assert_eq!(route.current().authority, "n9:1");
        route.prefer("ws://n0:1/ws");
        assert_eq!(route.current().authority, "n0:1");
        route.prefer("nonsense://");
        route.prefer("wss://n1:1/ws");
        assert_eq!(route.current().authority, "n0:1");
    }
}
