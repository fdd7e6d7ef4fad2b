//! Prometheus and Alertmanager, real ones, on the loopback, for as long as a drill lasts.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use cluster::env::clock;
use http::Method;
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use serde_json::Value;
use tokio::process::{Child, Command};

use super::super::dial::Dial;
use super::super::failure::{Failure, failed};
use super::super::http::{Endpoint, encode};
use super::files::{self, Pace, RULES};
use super::sink::Sink;

/// How long a program may take to answer, and Prometheus to have scraped all nodes.
const READY: Duration = Duration::from_secs(30);
/// How long a program may take to end before it is killed.
const STOP: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);

/// See the module.
pub struct Monitor {
    prometheus: Tool,
    alertmanager: Tool,
}

/// A program that was started, and where it listens.
struct Tool {
    name: &'static str,
    child: Child,
    endpoint: Endpoint,
}

impl Monitor {
    /// Starts both. Rules are loaded when all nodes were scraped once: a Prometheus that has not looked yet takes
    /// the service for gone.
    ///
    /// # Errors
    /// Programs that are not installed, or do not come up.
    pub async fn start(
        folder: &Path,
        pace: Pace,
        nodes: &[String],
        sink: &Sink,
        threshold: Option<(&str, &str)>,
    ) -> Result<Self, Failure> {
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            fs::write(&path, text).or_else(|error| failed(format!("cannot write {}: {error}", path.display())))
        };
        let (prometheus_port, alertmanager_port) = (free_port()?, free_port()?);
        fs::create_dir_all(folder.join("rules")).or_else(|error| failed(format!("cannot make a folder: {error}")))?;
        write("slack-url", format!("http://127.0.0.1:{}/slack", sink.port))?;
        write("pagerduty-key", "drill".to_owned())?;
        write("alertmanager.yml", files::alertmanager(pace, sink.port, folder))?;
        write("prometheus.yml", files::prometheus(pace, nodes, alertmanager_port, folder))?;
        let alertmanager = Tool::start(
            "Alertmanager",
            &["prometheus-alertmanager", "alertmanager"],
            folder,
            alertmanager_port,
            &[
                format!("--config.file={}", folder.join("alertmanager.yml").display()),
                format!("--storage.path={}", folder.join("alertmanager").display()),
                "--cluster.listen-address=".to_owned(),
            ],
        )
        .await?;
        let prometheus = Tool::start(
            "Prometheus",
            &["prometheus"],
            folder,
            prometheus_port,
            &[
                format!("--config.file={}", folder.join("prometheus.yml").display()),
                format!("--storage.tsdb.path={}", folder.join("prometheus").display()),
                "--storage.tsdb.retention.time=35d".to_owned(),
                "--rules.alert.resend-delay=1s".to_owned(),
            ],
        )
        .await?;
        let monitor = Self { prometheus, alertmanager };
        let up =
            || async { monitor.query("count(up{job=\"im-gateway-service\"} == 1)").await == Some(nodes.len() as f64) };
        until("all nodes are scraped", up).await?;
        for (name, shipped) in RULES {
            write(&format!("rules/{name}"), files::rules(shipped, pace, threshold))?;
        }
        monitor.prometheus.signal(Signal::HUP);
        until("the rules are evaluated", || async { monitor.query("slo:error_budget:consumed_ratio").await.is_some() })
            .await?;
        Ok(monitor)
    }

    /// The first value of an instant query.
    pub async fn query(&self, query: &str) -> Option<f64> {
        let path = format!("/api/v1/query?query={}", encode(query));
        let answer = self.prometheus.endpoint.request(Method::GET, &path).await.ok()?;
        let json: Value = serde_json::from_slice(&answer.body).ok()?;
        json["data"]["result"][0]["value"][1].as_str()?.parse().ok()
    }

    /// Ends both, and waits for it.
    pub async fn stop(self) {
        tokio::join!(self.prometheus.stop(), self.alertmanager.stop());
    }
}

impl Tool {
    async fn start(
        name: &'static str,
        programs: &[&str],
        folder: &Path,
        port: u16,
        arguments: &[String],
    ) -> Result<Self, Failure> {
        let path = folder.join(format!("{name}.log"));
        let log = File::create(&path).and_then(|log| Ok((log.try_clone()?, log)));
        let (out, err) = log.or_else(|error| failed(format!("cannot write {}: {error}", path.display())))?;
        let mut out = Some((out, err));
        let mut child = None;
        for program in programs {
            let (stdout, stderr) =
                out.take().map_or((Stdio::null(), Stdio::null()), |(out, err)| (out.into(), err.into()));
            match spawn(program, port, arguments, stdout, stderr) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return failed(format!("cannot start {program}: {error}")),
                Ok(started) => {
                    child = Some(started);
                    break;
                }
            }
        }
        let Some(child) = child else {
            return failed(format!(
                "a drill needs {name}, and {} is not in the search path; install it (Debian: {})",
                programs[0],
                if name == "Prometheus" { "prometheus" } else { "prometheus-alertmanager" },
            ));
        };
        let endpoint = Endpoint::new(&format!("http://127.0.0.1:{port}"), None, &Dial::default())
            .or_else(|error| failed(error.to_string()))?;
        let mut tool = Self { name, child, endpoint };
        let deadline = clock::now() + READY;
        while !tool.endpoint.request(Method::GET, "/-/ready").await.is_ok_and(|answer| answer.status == 200) {
            if tool.child.try_wait().is_ok_and(|ended| ended.is_some()) || clock::now() > deadline {
                let log = fs::read_to_string(&path).unwrap_or_default();
                return failed(format!("{name} does not come up: {}", log.lines().last().unwrap_or("it says nothing")));
            }
            clock::sleep(POLL).await;
        }
        Ok(tool)
    }

    fn signal(&self, signal: Signal) {
        // The id is ours until the process was waited for.
        let pid = self.child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        if let Some(pid) = pid {
            let _ = kill_process(pid, signal);
        }
    }

    async fn stop(mut self) {
        self.signal(Signal::TERM);
        if clock::timeout(STOP, self.child.wait()).await.is_err() {
            tracing::debug!(name = self.name, "is killed");
            let _ = self.child.kill().await;
        }
    }
}

/// Starts a program that ends with us, whichever way we end.
fn spawn(program: &str, port: u16, arguments: &[String], out: Stdio, err: Stdio) -> io::Result<Child> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        // A Ctrl-C on the terminal is for us; we end what we started, in our order.
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .kill_on_drop(true);
    // SAFETY: between fork and exec it makes one system call, and touches no memory of others.
    unsafe { command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?)) };
    command.spawn()
}

fn free_port() -> Result<u16, Failure> {
    let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    bound.map(|addr| addr.port()).or_else(|error| failed(format!("no free port: {error}")))
}

async fn until<F: Future<Output = bool>>(what: &str, check: impl Fn() -> F) -> Result<(), Failure> {
    let deadline = clock::now() + READY;
    while !check().await {
        if clock::now() > deadline {
            return failed(format!("not within {READY:?}: {what}"));
        }
        clock::sleep(POLL).await;
    }
    Ok(())
}
