//! What a local cluster's folder remembers between two runs: the secret, the peer ports, and
//! whether the cluster was founded already.
//!
//! Invariant: a folder is one cluster for ever. A new cluster is founded only in a folder where
//! none ever was, so nodes that come back never find themselves in two.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::super::failure::{Failure, failed};
use im_gateway::auth::Masked;

/// A local cluster's folder, held for ourselves as long as this lives.
pub struct Folder {
    path: PathBuf,
    _lock: File,
}

/// One node of the local cluster.
#[derive(Debug, Clone)]
pub struct Node {
    /// From 1.
    pub number: usize,
    pub http_port: u16,
    pub peer_port: u16,
    pub data: PathBuf,
    pub log: PathBuf,
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::Failed(format!(
        "cannot {what} {}: {error}; check its permissions, or choose another --data",
        path.display()
    ))
}

impl Folder {
    /// Makes or opens the folder.
    ///
    /// # Errors
    /// I/O errors, and a folder that another `up` uses right now.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        fs::create_dir_all(path).map_err(|error| cannot("create", path, &error))?;
        // Children run elsewhere in no way, but messages with absolute paths help more.
        let path = fs::canonicalize(path).map_err(|error| cannot("open", path, &error))?;
        let file = path.join("up.lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&file);
        let lock = lock.map_err(|error| cannot("open", &file, &error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => {
                failed(format!("another `im-gateway up` is using {}; end it, or choose another --data", path.display()))
            }
            Err(fs::TryLockError::Error(error)) => Err(cannot("lock", &file, &error)),
        }
    }

    /// The folder, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file that holds the cluster's secret.
    pub fn secret_file(&self) -> PathBuf {
        self.path.join("cluster.secret")
    }

    /// The cluster's secret, drawn at the first run.
    ///
    /// # Errors
    /// I/O errors.
    pub fn secret(&self) -> Result<Masked, Failure> {
        let file = self.secret_file();
        match fs::read_to_string(&file) {
            Ok(text) if text.trim().len() >= 16 => return Ok(Masked::new(text.trim())),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(cannot("read", &file, &error)),
        }
        let secret = hex::encode(rand::random::<[u8; 32]>());
        let written = File::options().create(true).write(true).truncate(true).mode(0o600).open(&file);
        written
            .and_then(|mut out| out.write_all(secret.as_bytes()).and_then(|()| out.sync_all()))
            .map_err(|error| cannot("write", &file, &error))?;
        Ok(Masked::new(secret))
    }

    /// Whether the cluster was founded in an earlier run.
    pub fn founded(&self) -> bool {
        self.path.join("founded").exists()
    }

    /// Remembers that the cluster was founded.
    ///
    /// # Errors
    /// I/O errors.
    pub fn set_founded(&self) -> Result<(), Failure> {
        let file = self.path.join("founded");
        File::create(&file).and_then(|file| file.sync_all()).map_err(|error| cannot("write", &file, &error))
    }

    /// The nodes, with ports that are free now. Client ports are as asked; peer ports stay what
    /// they were in the first run, because the other nodes know them.
    ///
    /// # Errors
    /// A port that something else uses, and I/O errors.
    pub fn nodes(&self, count: u16, http_port: u16) -> Result<Vec<Node>, Failure> {
        let file = self.path.join("peer-ports");
        let known = match fs::read_to_string(&file) {
            Ok(text) => text.lines().map(str::parse).collect::<Result<Vec<u16>, _>>().or_else(|_| {
                failed(format!("{} is damaged; write one port per line, in the order of the nodes", file.display()))
            })?,
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(cannot("read", &file, &error)),
        };
        let ports = choose_ports(count, http_port, &known)?;
        let mut all: Vec<u16> = ports.iter().map(|(_, peer)| *peer).collect();
        all.extend(known.iter().skip(all.len()));
        let text: String = all.iter().map(|port| format!("{port}\n")).collect();
        fs::write(&file, text).map_err(|error| cannot("write", &file, &error))?;
        let node = |(index, (http_port, peer_port)): (usize, (u16, u16))| Node {
            number: index + 1,
            http_port,
            peer_port,
            data: self.path.join(format!("node-{}", index + 1)),
            log: self.path.join(format!("node-{}.log", index + 1)),
        };
        Ok(ports.into_iter().enumerate().map(node).collect())
    }
}

/// Takes a port for as long as the choice lasts, so that no port is chosen twice.
fn hold(port: u16) -> Option<TcpListener> {
    TcpListener::bind(("127.0.0.1", port)).ok()
}

/// Client and peer port of each node. `known` are the peer ports of earlier runs.
fn choose_ports(count: u16, http_port: u16, known: &[u16]) -> Result<Vec<(u16, u16)>, Failure> {
    let mut held = Vec::new();
    let mut chosen = Vec::new();
    for index in 0..count {
        let Some(port) = http_port.checked_add(index) else {
            return Err(Failure::Usage(format!(
                "--http-port {http_port} leaves no room for {count} nodes; choose a lower one"
            )));
        };
        let Some(listener) = hold(port) else {
            return failed(format!("port {port} is in use; end what listens there, or choose another --http-port"));
        };
        held.push(listener);
        chosen.push(port);
    }
    for port in known.iter().take(usize::from(count)) {
        let Some(listener) = hold(*port) else {
            return failed(format!("peer port {port} of this cluster is in use; end what listens there"));
        };
        held.push(listener);
    }
    let mut peers: Vec<u16> = known.iter().copied().take(usize::from(count)).collect();
    let mut candidates = (http_port.saturating_add(1_000)..=u16::MAX).chain(1_024..http_port);
    while peers.len() < usize::from(count) {
        let Some(port) = candidates.next() else {
            return failed("no free port is left for the links between nodes; end something that listens");
        };
        if let (false, Some(listener)) = (known.contains(&port), hold(port)) {
            held.push(listener);
            peers.push(port);
        }
    }
    Ok(chosen.into_iter().zip(peers).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_keeps_its_secret_and_its_peer_ports() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = Folder::open(folder.path()).expect("opens");
        assert!(Folder::open(folder.path()).is_err_and(|error| error.to_string().contains("another `im-gateway up`")));
        let (secret, nodes) = (first.secret().expect("made"), first.nodes(3, 42_110).expect("free ports"));
        assert!(!first.founded());
        first.set_founded().expect("written");
        drop(first);
        let again = Folder::open(folder.path()).expect("opens");
        assert_eq!(again.secret().expect("read").reveal(), secret.reveal());
        assert!(again.founded());
        // Fewer nodes, other client ports, then more nodes: known nodes keep their peer ports.
        let fewer = again.nodes(2, 42_210).expect("free ports");
        let more = again.nodes(4, 42_310).expect("free ports");
        for index in 0..3 {
            assert_eq!(nodes[index].peer_port, more[index].peer_port);
        }
        assert_eq!((fewer[1].peer_port, fewer[1].http_port), (nodes[1].peer_port, 42_211));
        assert!(nodes.iter().all(|node| node.peer_port != more[3].peer_port));
    }

    #[test]
    fn a_taken_port_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = taken.local_addr().expect("bound").port();
        let error = choose_ports(1, port, &[]).expect_err("refused").to_string();
        assert!(error.contains(&format!("port {port} is in use")), "{error}");
        let error = choose_ports(2, u16::MAX, &[]).map(drop);
        assert!(error.is_err());
        assert!(choose_ports(1, 42_410, &[port]).is_err());
    }
}
