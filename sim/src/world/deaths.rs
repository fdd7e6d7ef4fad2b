//! How processes end, and how they stand still.

use std::time::Duration;

use cluster::sync::lock;
use madsim::runtime::Handle;
use madsim::task::NodeId;
use serde_json::json;
use tokio::sync::mpsc;

use super::machine::Process;
use super::{Ended, World};
use crate::evidence::{self, Undergone};
use crate::process::End;
use crate::time;

/// A process that does not stop in good order by then is killed, as the service manager does.
const STOP_WITHIN: Duration = Duration::from_secs(30);
/// How often one who waits looks.
const LOOK: Duration = Duration::from_millis(20);

impl World {
    /// Keeps machine `n` from booting, until [`Self::release`].
    pub fn hold(&self, n: usize) {
        self.state(n).holds += 1;
    }

    /// Boots machine `n` if this was the last that kept it down.
    pub fn release(&self, n: usize) {
        self.state(n).holds -= 1;
        self.boot(n);
    }

    /// One thing less keeps machine `n` down, but somebody else boots it.
    pub fn release_only(&self, n: usize) {
        self.state(n).holds -= 1;
    }

    /// Kills machine `n`'s process, as SIGKILL does, or by cutting the machine's power. Whether there was one, and
    /// with power a stream to fall silent.
    pub fn kill(&self, n: usize, power: bool) -> bool {
        let machine = self.machine(n);
        let Some(process) = self.state(n).process.take() else { return false };
        self.shared.trace.event("kill", json!({ "node": machine.name, "power": power }));
        let (id, streams) = (process.node, self.shared.network.streams_of(machine.host));
        // Nothing that the dying tasks still do reaches the outside.
        if power {
            self.shared.network.power_off(machine.host);
        } else {
            self.shared.network.kill(machine.host);
        }
        machine.disk.crash();
        process.die();
        if power {
            return streams > 0;
        }
        if Handle::current().is_exit(id) {
            evidence::note(Undergone::Death);
        }
        true
    }

    /// Tells machine `n`'s process to stop in good order; returns when it has, or was killed. Whether it could hear of
    /// that, and nothing else ended it before.
    pub async fn drain(&self, n: usize) -> bool {
        let running = self.state(n).process.as_ref().map(|process| (process.node, process.stop.clone()));
        let Some((id, stop)) = running else { return false };
        self.shared.trace.event("drain", json!({ "node": self.machine(n).name }));
        stop.notify_one();
        let deadline = time::now() + time::nanos(STOP_WITHIN);
        while self.runs(n, id) {
            if time::now() >= deadline {
                let hears = |process: &Process| process.cluster.is_some() && process.stalls == 0;
                let heard = self.state(n).process.as_ref().is_some_and(hears);
                self.kill(n, false);
                return heard;
            }
            time::sleep(LOOK).await;
        }
        self.state(n).stopped == Some(id)
    }

    fn runs(&self, n: usize, id: NodeId) -> bool {
        self.state(n).process.as_ref().is_some_and(|process| process.node == id)
    }

    /// What ended by itself from now on; for one listener.
    pub fn ends(&self) -> Option<mpsc::UnboundedReceiver<Ended>> {
        lock(&self.shared.ended).take()
    }

    /// Clears away a process that ended by itself; `false` when it was killed meanwhile.
    pub fn bury(&self, ended: &Ended) -> bool {
        let n = ended.machine;
        if !self.runs(n, ended.process) {
            return false;
        }
        if let End::Failed(why) = &ended.end {
            self.shared.trace.event("failed", json!({ "node": self.machine(n).name, "why": why }));
            self.kill(n, false);
            return true;
        }
        let process = self.state(n).process.take();
        if let Some(process) = process {
            self.shared.trace.event("stopped", json!({ "node": self.machine(n).name }));
            self.shared.network.kill(self.machine(n).host);
            self.machine(n).disk.close();
            self.state(n).stopped = Some(process.node);
            evidence::note(Undergone::Stop);
            process.die();
        }
        true
    }

    /// Makes machine `n`'s process stand still; says which one it was.
    pub fn stall(&self, n: usize) -> Option<NodeId> {
        let mut state = self.state(n);
        let process = state.process.as_mut()?;
        process.stalls += 1;
        Handle::current().pause(process.node);
        evidence::note(Undergone::Stall);
        Some(process.node)
    }

    /// Lets the process go on that stood still, if it lives and nothing else holds it.
    pub fn unstall(&self, n: usize, id: NodeId) {
        let mut state = self.state(n);
        if let Some(process) = state.process.as_mut().filter(|process| process.node == id) {
            process.stalls -= 1;
            if process.stalls == 0 {
                Handle::current().resume(id);
            }
        }
    }
}
