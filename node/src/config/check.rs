//! What makes a configuration unacceptable, beyond the form of its values.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use cluster::env::clock;
use http::Uri;
use im_gateway::auth::{DEV_SECRET, Jwks, Masked, Verifier};
use im_gateway::host::{self, is_loopback};

use super::{Config, Invalid};

/// The cluster secret of a node that was given none. Public, so it is accepted on loopback only.
pub const DEV_CLUSTER_SECRET: &str = "im-gateway development cluster, public";

/// Shorter secrets can be guessed from one observed token or handshake.
const SECRET_MIN_BYTES: usize = 16;

/// Smallest and largest `limits.frame_bytes`. A hello with its token must fit. A whole frame's body
/// goes into one message to the recipient, which the SDK takes up to 1 MiB, and with others into one
/// log entry, far below the 16 MiB that the store takes.
const FRAME_BYTES: RangeInclusive<u32> = 1 << 10..=900 << 10;

/// Shortest `cluster.limits.ring_ttl_ms`: clients repeat for 58 minutes, and the clocks by which the two are measured differ.
const ANSWERS_MS: u64 = 60 * 60 * 1000;

fn is_unspecified(address: &str) -> bool {
    host::of(address).parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
}

fn address(key: &str, text: &str) -> Result<(), Invalid> {
    let good = text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if good { Ok(()) } else { Err(Invalid(format!("`{key}` = \"{text}\" is not host:port, such as 127.0.0.1:8080"))) }
}

fn refuse<T>(text: impl Into<String>) -> Result<T, Invalid> {
    Err(Invalid(text.into()))
}

impl Config {
    /// Fills in what depends on other keys, and refuses what cannot run.
    ///
    /// # Errors
    /// The first fault found, with the key and how to mend it.
    pub fn check(mut self) -> Result<Self, Invalid> {
        self.check_addresses()?;
        self.check_secrets()?;
        self.check_tls()?;
        self.check_limits()?;
        self.check_otlp()?;
        if !matches!(self.cluster.voters, 3 | 5) {
            return refuse(format!("`cluster.voters` = {} : set it to 3 or 5", self.cluster.voters));
        }
        self.cluster.secret.get_or_insert_with(|| Masked::new(DEV_CLUSTER_SECRET));
        self.complete_advertise()?;
        Ok(self)
    }

    fn check_addresses(&self) -> Result<(), Invalid> {
        address("listen.http", &self.listen.http)?;
        address("listen.peer", &self.listen.peer)?;
        if let Some(peer) = &self.advertise.peer {
            address("advertise.peer", peer)?;
        }
        self.cluster.join.iter().try_for_each(|join| address("cluster.join", join))
    }

    fn check_secrets(&self) -> Result<(), Invalid> {
        let http_local = is_loopback(&self.listen.http);
        let peer_local = is_loopback(&self.listen.peer);
        let default =
            |secret: &Option<Masked>, development| secret.as_ref().is_none_or(|secret| secret.reveal() == development);
        if !http_local && self.auth.jwks.is_none() && default(&self.auth.secret, DEV_SECRET) {
            return refuse(format!(
                "listen.http = \"{}\" is not loopback and the JWT secret is the public development one; \
                 set IMGW_JWT_SECRET or auth.jwks, or listen on 127.0.0.1",
                self.listen.http
            ));
        }
        if !peer_local && default(&self.cluster.secret, DEV_CLUSTER_SECRET) {
            return refuse(format!(
                "listen.peer = \"{}\" is not loopback and the cluster secret is the public development one; \
                 set IMGW_CLUSTER_SECRET to the same value on every node, or listen on 127.0.0.1",
                self.listen.peer
            ));
        }
        if !http_local && self.dev {
            return refuse(format!(
                "listen.http = \"{}\" is not loopback and development mode gives tokens to anybody; \
                 leave out --dev, or listen on 127.0.0.1",
                self.listen.http
            ));
        }
        if self.auth.jwks.is_some() && self.auth.secret.is_some() {
            return refuse("both `auth.secret` and `auth.jwks` are set; keep the one that signs your tokens");
        }
        if let Some(Jwks::File(_)) = &self.auth.jwks {
            Verifier::new(&self.auth).map_err(|error| Invalid(error.to_string()))?;
        }
        for (key, secret) in self.secrets() {
            if secret.reveal().is_empty() {
                return refuse(format!("`{key}` is empty; set it, or leave it out"));
            }
        }
        Ok(())
    }

    fn check_tls(&self) -> Result<(), Invalid> {
        if self.tls.http.ca.is_some() {
            return refuse("`tls.http.ca` is set, but clients show tokens, not certificates; leave it out");
        }
        for (section, port, ca_needed) in [("tls.http", &self.tls.http, false), ("tls.peer", &self.tls.peer, true)] {
            let given = [("cert", port.cert.is_some()), ("key", port.key.is_some()), ("ca", port.ca.is_some())];
            let wanted = given.iter().filter(|(name, _)| *name != "ca" || ca_needed);
            let missing: Vec<_> = wanted.filter(|(_, given)| !given).map(|(name, _)| *name).collect();
            if given.iter().all(|(_, given)| !given) {
                continue;
            }
            if !missing.is_empty() {
                return refuse(format!(
                    "[{section}] lacks {}; set it, or leave the whole section out",
                    missing.join(" and ")
                ));
            }
            let files = port.files().expect("none is missing");
            files.check(clock::wall_ms() / 1000).map_err(|error| Invalid(format!("[{section}]: {error}")))?;
        }
        Ok(())
    }

    fn check_otlp(&self) -> Result<(), Invalid> {
        let Some(endpoint) = &self.otlp.endpoint else { return Ok(()) };
        let url: Option<Uri> = endpoint.parse().ok();
        let good = url.is_some_and(|url| matches!(url.scheme_str(), Some("http" | "https")) && url.query().is_none());
        if good {
            Ok(())
        } else {
            refuse(format!("`otlp.endpoint` = \"{endpoint}\" is no URL such as http://127.0.0.1:4318"))
        }
    }

    fn check_limits(&self) -> Result<(), Invalid> {
        let (own, shared) = (&self.limits, &self.cluster.limits);
        if !FRAME_BYTES.contains(&own.frame_bytes) {
            let (least, most) = (FRAME_BYTES.start(), FRAME_BYTES.end());
            return refuse(format!("`limits.frame_bytes` = {} : set it to {least} to {most} (bytes)", own.frame_bytes));
        }
        let needed = [
            ("limits.connections", own.connections as u64),
            ("limits.send_per_s", own.send_per_s.into()),
            ("limits.ping_ms", own.ping_ms),
            ("limits.hello_timeout_ms", own.hello_timeout_ms),
            ("limits.ack_timeout_ms", own.ack_timeout_ms),
            ("limits.watches", own.watches.into()),
            ("limits.window_messages", own.window_messages as u64),
            ("limits.window_bytes", own.window_bytes as u64),
            ("cluster.limits.inflight", shared.inflight.into()),
            ("cluster.limits.inbox_messages", shared.inbox_messages.into()),
            ("cluster.limits.inbox_bytes", shared.inbox_bytes),
            ("cluster.limits.devices_per_user", shared.devices_per_user.into()),
            ("cluster.limits.message_ttl_ms", shared.message_ttl_ms),
            ("cluster.limits.device_ttl_ms", shared.device_ttl_ms),
            ("cluster.limits.ephemeral_ttl_ms", shared.ephemeral_ttl_ms),
            ("cluster.limits.ring_ttl_ms", shared.ring_ttl_ms),
            ("cluster.groups.members", self.cluster.groups.members.into()),
            ("cluster.groups.per_user", self.cluster.groups.per_user.into()),
        ];
        if let Some((key, _)) = needed.iter().find(|(_, value)| *value == 0) {
            return refuse(format!("`{key}` = 0 : nothing would work; set it to 1 or more, or leave it out"));
        }
        if shared.ring_ttl_ms < ANSWERS_MS {
            return refuse(format!(
                "`cluster.limits.ring_ttl_ms` = {}: clients repeat a message for 58 minutes, and must not store it twice; \
                 set it to {ANSWERS_MS} or more, or leave it out",
                shared.ring_ttl_ms
            ));
        }
        Ok(())
    }

    fn secrets(&self) -> impl Iterator<Item = (&'static str, &Masked)> {
        let all = [
            ("auth.secret", &self.auth.secret),
            ("cluster.secret", &self.cluster.secret),
            ("admin.token", &self.admin.token),
        ];
        all.into_iter().filter_map(|(key, secret)| Some((key, secret.as_ref()?)))
    }

    /// What runs, but should be looked at.
    pub fn warnings(&self) -> Vec<String> {
        let ports = [
            ("listen.http", &self.listen.http, "tls.http", &self.tls.http, ", or in a proxy in front of it"),
            ("listen.peer", &self.listen.peer, "tls.peer", &self.tls.peer, ""),
        ];
        let clear = ports.into_iter().filter(|(_, address, _, port, _)| !is_loopback(address) && port.cert.is_none());
        let clear = clear.map(|(key, address, section, _, elsewhere)| {
            format!("{key} = \"{address}\" speaks in the clear: set [{section}]{elsewhere}")
        });
        let short = self.secrets().filter(|(_, secret)| secret.reveal().len() < SECRET_MIN_BYTES);
        clear
            .chain(short.map(|(key, _)| {
                format!("`{key}` is shorter than {SECRET_MIN_BYTES} bytes and may be guessed; set a longer one")
            }))
            .collect()
    }

    /// Works out how others reach this node from where it listens, where that says it.
    fn complete_advertise(&mut self) -> Result<(), Invalid> {
        if self.advertise.peer.is_none() && is_unspecified(&self.listen.peer) {
            return refuse(format!(
                "listen.peer = \"{}\" says no address that other nodes could use; set advertise.peer to host:port",
                self.listen.peer
            ));
        }
        if self.advertise.http.is_none() {
            let (host, port) = self.listen.http.rsplit_once(':').expect("was checked to be host:port");
            let host = if is_unspecified(&self.listen.http) {
                let peer = self.advertise.peer.as_ref().unwrap_or(&self.listen.peer);
                peer.rsplit_once(':').expect("was checked to be host:port").0
            } else {
                host
            };
            let scheme = if self.tls.http.cert.is_some() { "wss" } else { "ws" };
            self.advertise.http = Some(format!("{scheme}://{host}:{port}/ws"));
        }
        Ok(())
    }
}
