//! Who may open a WebSocket now: a crowd is let in at a pace that the node can bear, and one address
//! takes no more than its share. A pure core; [`super::ws`] asks it.
//!
//! Why one address is not held to a rate of its own by default: behind a proxy or a carrier's NAT it may be everybody.
//! It has the node's whole rate as long as nobody else comes, but for a part of each burst. That is there for others,
//! and is filled up before a crowd has any more, so no address can keep them out.
//!
//! Invariant: what it remembers is bounded by [`MAX_ADDRESSES`], and by what the node lets in in two seconds; who is
//! refused is told when to come again, and costs no more than an HTTP answer.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::response::Response;
use cluster::env::clock::Instant;
use cluster::sync::lock;
use http::{HeaderMap, StatusCode, header};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::answer;
use crate::delivery::Pace;

/// Addresses that are remembered. When so many are there at once, further ones count as one.
const MAX_ADDRESSES: usize = 65_536;

/// What a crowd leaves to others of the burst, which is a second's worth.
const RESERVE: Duration = Duration::from_millis(125);

/// An address is a crowd once it has opened this part of a second's worth within a second. Less than the reserve is,
/// or it would have used that up by then.
const CROWD_PART: u32 = 16;

/// What those count as for whom there is no room: the address of nobody.
const OTHERS: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// Limits on what comes from many at once, or from one in many ways; 0 is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdmissionLimits {
    /// WebSockets that the node opens per second, and at once after a pause.
    pub per_s: u32,
    /// WebSockets that one address may open per second, and at once after a pause.
    pub address_per_s: u32,
    /// WebSockets that one address may have open.
    pub address_connections: u32,
    /// Frames that one user may send per second over all connections to the node; they are read no faster.
    pub user_send_per_s: u32,
    /// Proxies whose `X-Forwarded-For` is believed, as networks such as `10.0.0.0/8`. Without them the
    /// address is the one that the connection comes from.
    pub trusted_proxies: Vec<IpNet>,
}

impl Default for AdmissionLimits {
    fn default() -> Self {
        // As many as a node takes in without others noticing; a whole node's clients come back in
        // seconds. Addresses are unlimited, because a proxy or a carrier's NAT is one to us: see the module.
        Self { per_s: 4_000, address_per_s: 0, address_connections: 0, user_send_per_s: 0, trusted_proxies: Vec::new() }
    }
}

/// Why a connection may not be opened now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The node opens as many as it can.
    NodeRate,
    /// The address opens too many.
    AddressRate,
    /// The address has too many.
    AddressConnections,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::NodeRate, Self::AddressRate, Self::AddressConnections];

    /// As a metric's label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NodeRate => "node_rate",
            Self::AddressRate => "address_rate",
            Self::AddressConnections => "address_connections",
        }
    }

    /// The answer: come again in `wait`, in whole seconds as HTTP has them.
    #[must_use]
    pub fn answer(self, wait: Duration) -> Response {
        let (status, message) = match self {
            Self::NodeRate => (StatusCode::SERVICE_UNAVAILABLE, "the node takes no more connections this second"),
            Self::AddressRate => (StatusCode::TOO_MANY_REQUESTS, "too many connections from this address this second"),
            Self::AddressConnections => (StatusCode::TOO_MANY_REQUESTS, "too many connections from this address"),
        };
        let mut response = answer::error(status, "too_many_connections", message);
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        response.headers_mut().insert(header::RETRY_AFTER, seconds.max(1).into());
        response
    }
}

/// A connection that may not be opened now.
#[derive(Debug)]
pub struct Refused {
    /// Why.
    pub why: Refusal,
    /// After how long it may try again.
    pub wait: Duration,
    /// Whose it is, proxies left out that are trusted.
    pub address: IpAddr,
}

/// An admitted connection's place, given back when it is dropped.
pub struct Admitted(Option<(Arc<Mutex<Admission>>, IpAddr)>);

impl Admitted {
    /// Lets a connection in.
    ///
    /// # Errors
    /// Why not now, and after how long it may try again.
    pub fn enter(
        admission: &Arc<Mutex<Admission>>,
        peer: IpAddr,
        headers: &HeaderMap,
        now: Instant,
    ) -> Result<Self, Refused> {
        let mut inner = lock(admission);
        let address = inner.client(peer, headers);
        let key = inner.enter(address, now).map_err(|(why, wait)| Refused { why, wait, address })?;
        Ok(Self(key.map(|key| (admission.clone(), key))))
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if let Some((admission, key)) = &self.0 {
            lock(admission).leave(*key);
        }
    }
}

/// Lets one through that leaves so much of the burst to others, or says after how long.
fn take(pace: &mut Pace, reserve: Duration, now: Instant) -> Result<(), Duration> {
    let ready_at = pace.ready_at_leaving(reserve);
    if ready_at > now {
        return Err(ready_at - now);
    }
    pace.take(now);
    Ok(())
}

#[derive(Debug, Clone, Copy)]
struct Address {
    open: u32,
    pace: Pace,
}

/// See the module.
#[derive(Debug)]
pub struct Admission {
    limits: AdmissionLimits,
    node: Pace,
    /// How many each address has opened in the second that ends then. Never iterated.
    opened: HashMap<IpAddr, u32>,
    opened_until: Instant,
    /// Never iterated but to forget; [`OTHERS`] are there from the start.
    addresses: HashMap<IpAddr, Address>,
}

/// Whose connection it is: of those that it was forwarded for, `forwarded` with the nearest last, the first
/// one from the end that is no trusted proxy's.
fn client(peer: IpAddr, forwarded: &[IpAddr], trusted: &[IpNet]) -> IpAddr {
    let is_proxy = |address: &IpAddr| trusted.iter().any(|network| network.contains(&address.to_canonical()));
    let mut address = peer;
    for next in forwarded.iter().rev() {
        if !is_proxy(&address) {
            break;
        }
        address = *next;
    }
    address
}

/// The addresses in a request's `X-Forwarded-For`, up to the first from the end that is none.
fn forwarded(headers: &HeaderMap) -> Vec<IpAddr> {
    let values = headers.get_all("x-forwarded-for").into_iter().filter_map(|value| value.to_str().ok());
    let parts: Vec<_> = values.flat_map(|value| value.split(',')).map(str::trim).collect();
    let mut nearest: Vec<_> = parts.iter().rev().map_while(|part| part.parse().ok()).collect();
    nearest.reverse();
    nearest
}

/// What counts as one address: of IPv6 the network, because a customer has a whole one.
fn key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !0 << 64)),
        v4 => v4,
    }
}

impl Admission {
    /// Nobody has come yet.
    #[must_use]
    pub fn new(limits: AdmissionLimits) -> Self {
        let addresses = HashMap::from([(OTHERS, Address { open: 0, pace: Pace::new(limits.address_per_s) })]);
        let (opened, opened_until) = (HashMap::new(), Instant::default());
        Self { node: Pace::new(limits.per_s), opened, opened_until, limits, addresses }
    }

    fn counts_addresses(&self) -> bool {
        self.limits.address_per_s > 0 || self.limits.address_connections > 0
    }

    /// One more connection from `address`; what it is to be given back by, see [`Admission::leave`].
    ///
    /// # Errors
    /// Why not now, and after how long it may try again.
    pub fn enter(&mut self, address: IpAddr, now: Instant) -> Result<Option<IpAddr>, (Refusal, Duration)> {
        let mut own = None;
        if self.counts_addresses() {
            let key = self.place(key(address), now);
            let fresh = Address { open: 0, pace: Pace::new(self.limits.address_per_s) };
            let known = self.addresses.entry(key).or_insert(fresh);
            if self.limits.address_connections > 0 && known.open >= self.limits.address_connections {
                return Err((Refusal::AddressConnections, Duration::from_secs(1)));
            }
            if self.limits.address_per_s > 0 {
                take(&mut known.pace, Duration::ZERO, now).map_err(|wait| (Refusal::AddressRate, wait))?;
            }
            own = Some(key);
        }
        if self.limits.per_s > 0 {
            self.enter_node(key(address), now).map_err(|wait| (Refusal::NodeRate, wait))?;
        }
        if let Some(known) = own.and_then(|key| self.addresses.get_mut(&key)) {
            known.open += 1;
        }
        Ok(own)
    }

    /// Takes one of the node's rate.
    fn enter_node(&mut self, key: IpAddr, now: Instant) -> Result<(), Duration> {
        if now >= self.opened_until {
            self.opened.clear();
            self.opened_until = now + Duration::from_secs(1);
        }
        let opened = self.opened.get(&key).copied().unwrap_or(0);
        let few = opened < (self.limits.per_s / CROWD_PART).max(1);
        let reserve = if few { Duration::ZERO } else { RESERVE };
        take(&mut self.node, reserve, now)?;
        self.opened.insert(key, opened + 1);
        Ok(())
    }

    /// Whose connection a request is, as far as it can be told.
    #[must_use]
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let trusted = &self.limits.trusted_proxies;
        if trusted.is_empty() { peer } else { client(peer, &forwarded(headers), trusted) }
    }

    /// A connection of this address has ended.
    pub fn leave(&mut self, key: IpAddr) {
        if let Some(known) = self.addresses.get_mut(&key) {
            known.open = known.open.saturating_sub(1);
        }
    }

    /// Where an address is counted: with all that came too late, if there is no room.
    fn place(&mut self, key: IpAddr, now: Instant) -> IpAddr {
        if self.addresses.len() <= MAX_ADDRESSES || self.addresses.contains_key(&key) {
            return key;
        }
        self.addresses.retain(|key, known| *key == OTHERS || known.open > 0 || !known.pace.ready(now));
        if self.addresses.len() <= MAX_ADDRESSES { key } else { OTHERS }
    }
}

#[cfg(test)]
mod tests {
    use cluster::env::clock;

    use super::*;

    const OFF: AdmissionLimits = AdmissionLimits {
        per_s: 0,
        address_per_s: 0,
        address_connections: 0,
        user_send_per_s: 0,
        trusted_proxies: Vec::new(),
    };

    fn v4(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    fn nth(n: u32) -> IpAddr {
        (n + 1).to_be_bytes().into()
    }

    #[test]
    fn a_crowd_is_let_in_at_a_pace() {
        let now = clock::now();
        let mut admission = Admission::new(AdmissionLimits { per_s: 100, ..OFF });
        let let_in = |all: &mut Admission, at| (0..1_000).filter(|n| all.enter(nth(*n), at).is_ok()).count();
        assert_eq!(let_in(&mut admission, now), 100, "a second's worth at once");
        let (refusal, wait) = admission.enter(v4(2), now).expect_err("full");
        assert_eq!((refusal, wait), (Refusal::NodeRate, Duration::from_millis(10)));
        assert_eq!(let_in(&mut admission, now + Duration::from_millis(500)), 50);
        assert_eq!(let_in(&mut admission, now + Duration::from_secs(60)), 100, "a pause saves up no more");
        assert_eq!(admission.addresses.len(), 1, "nothing is remembered that is not limited");
    }

    #[test]
    fn one_address_leaves_room_for_others_and_has_all_that_they_leave() {
        let now = clock::now();
        let mut admission = Admission::new(AdmissionLimits { per_s: 100, ..OFF });
        let let_in = |admission: &mut Admission, address, at| {
            (0..1_000).filter(|_| admission.enter(address, at).is_ok()).count()
        };
        assert_eq!(let_in(&mut admission, v4(1), now), 87, "an eighth of the burst is not for a crowd");
        assert_eq!([2, 3, 4].map(|last| let_in(&mut admission, v4(last), now)), [6, 6, 1], "until all is used up");
        let later = now + Duration::from_secs(60);
        assert_eq!(let_in(&mut admission, v4(1), later), 87);
        let each_ms = (1..1_000).map(|ms| later + Duration::from_millis(ms));
        let crowd = each_ms.filter(|at| admission.enter(v4(1), *at).is_ok()).count();
        assert_eq!(crowd, 100, "the whole rate, while nobody else comes");
        assert!(admission.enter(v4(2), later + Duration::from_millis(999)).is_ok(), "and whoever does is let in");
        assert!(admission.opened.len() <= 2, "only the second that runs is remembered");
    }

    #[test]
    fn an_address_has_its_share() {
        let now = clock::now();
        let limits = AdmissionLimits { per_s: 1_000, address_per_s: 10, address_connections: 3, ..OFF };
        let mut admission = Admission::new(limits);
        let keys: Vec<_> = (0..3).map(|_| admission.enter(v4(1), now).expect("there is room")).collect();
        assert_eq!(admission.enter(v4(1), now).map_err(|(why, _)| why), Err(Refusal::AddressConnections));
        assert!(admission.enter(v4(2), now).is_ok(), "others have their own");
        for _ in 0..7 {
            admission.leave(keys[0].expect("it is counted"));
            admission.enter(v4(1), now).expect("one has left");
        }
        admission.leave(v4(1));
        assert_eq!(admission.enter(v4(1), now).map_err(|(why, _)| why), Err(Refusal::AddressRate));
        assert!(admission.enter(v4(1), now + Duration::from_millis(100)).is_ok());
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().expect("an address");
        assert_eq!(key(mapped), v4(1), "however the socket shows it");
        let of_one_network: Vec<IpAddr> =
            ["2001:db8::1", "2001:db8::2:0:0:1"].map(|text| text.parse().expect("an address")).to_vec();
        assert_eq!(key(of_one_network[0]), key(of_one_network[1]));
    }

    #[test]
    fn proxies_are_believed_where_they_are_trusted() {
        let trusted = vec!["10.0.0.0/24".parse().expect("a network")];
        let admission = Admission::new(AdmissionLimits { trusted_proxies: trusted, ..OFF });
        let stranger: IpAddr = [192, 0, 2, 7].into();
        let client = |peer, chain: &'static [&'static str]| {
            let mut headers = HeaderMap::new();
            for value in chain {
                headers.append("x-forwarded-for", http::HeaderValue::from_static(value));
            }
            admission.client(peer, &headers)
        };
        assert_eq!(client(v4(1), &[]), v4(1));
        assert_eq!(client(v4(1), &["192.0.2.7"]), stranger);
        assert_eq!(client(v4(1), &["198.51.100.9, 192.0.2.7", "10.0.0.2"]), stranger, "the part it made up is not");
        assert_eq!(client(v4(1), &["192.0.2.7", "nonsense"]), v4(1));
        assert_eq!(client(stranger, &["198.51.100.9"]), stranger, "anybody can send the header");
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().expect("an address");
        assert_eq!(client(mapped, &["192.0.2.7"]), stranger);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let now = clock::now();
        let mut admission = Admission::new(AdmissionLimits { address_connections: 2, ..OFF });
        let most = u32::try_from(MAX_ADDRESSES).expect("it is small");
        for n in 0..most {
            admission.enter(nth(n), now).expect("there is room");
        }
        for n in most..most + 2 {
            assert_eq!(admission.enter(nth(n), now), Ok(Some(OTHERS)), "they are one");
        }
        assert!(admission.enter(nth(most + 2), now).is_err());
        assert!(admission.addresses.len() <= MAX_ADDRESSES + 1);
        admission.leave(nth(0));
        assert_eq!(admission.enter(nth(most + 2), now), Ok(Some(nth(most + 2))), "who has left is forgotten");
    }
}
