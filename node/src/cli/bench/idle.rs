//! Many connections that do nothing, and what happens when they are all lost at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;
use std::time::Duration;

use cluster::env::clock;
use tokio::sync::{Semaphore, watch};

use super::super::failure::Failure;
use super::plan::{Plan, Seat};

/// Connections that are being opened at a time, before the storm; a storm knows no such limit.
const OPENING: usize = 256;
/// How often it is looked at who is connected.
const LOOK: Duration = Duration::from_millis(20);

/// What the connections are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Stay connected; break off and connect again in each further round.
    Hold(u32),
    /// Close.
    End,
}

/// A crowd of idle connections.
pub struct Crowd {
    phase: watch::Sender<Phase>,
    shared: Arc<Shared>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

struct Shared {
    plan: Arc<Plan>,
    /// For each member the round in which it was connected, from 1; 0 while it is not.
    members: Vec<AtomicU32>,
    opening: Semaphore,
}

impl Crowd {
    /// Begins to connect `size` users, spread over all nodes.
    ///
    /// # Errors
    /// When tokens cannot be signed.
    pub fn gather(plan: &Arc<Plan>, size: usize) -> Result<Self, Failure> {
        let phase = watch::Sender::new(Phase::Hold(1));
        let shared = Arc::new(Shared {
            plan: plan.clone(),
            members: (0..size).map(|_| AtomicU32::new(0)).collect(),
            opening: Semaphore::new(OPENING),
        });
        let mut tasks = Vec::with_capacity(size);
        for nth in 0..size {
            let seat = Seat::new(plan.login("i", nth)?, nth, nth);
            tasks.push(tokio::spawn(shared.clone().member(nth, seat, phase.subscribe())));
        }
        Ok(Self { phase, shared, tasks })
    }

    /// How many are connected, in the present round.
    pub fn connected(&self) -> usize {
        let Phase::Hold(round) = *self.phase.borrow() else { return 0 };
        self.shared.members.iter().filter(|member| member.load(Ordering::Relaxed) == round).count()
    }

    /// Waits until all are connected, for `patience` at most; says how many are.
    pub async fn complete(&self, patience: Duration) -> usize {
        let deadline = clock::now() + patience;
        loop {
            let connected = self.connected();
            if connected == self.tasks.len() || clock::now() >= deadline {
                return connected;
            }
            clock::sleep(LOOK).await;
        }
    }

    /// Breaks all connections at once; each goes back as fast as it can.
    pub fn storm(&self) {
        self.phase.send_modify(|phase| {
            if let Phase::Hold(round) = phase {
                *round += 1;
            }
        });
    }

    /// Closes all connections.
    pub async fn disperse(self) {
        self.phase.send_replace(Phase::End);
        for task in self.tasks {
            // A connection that failed has been counted where it did.
            let _ = task.await;
        }
    }
}

impl Shared {
    async fn member(self: Arc<Self>, nth: usize, mut seat: Seat, mut phase: watch::Receiver<Phase>) {
        let mut first = true;
        loop {
            let permit = if first { self.opening.acquire().await.ok() } else { None };
            first = false;
            let Some((mut wire, _)) = seat.connect(&self.plan, self.plan.end).await else { return };
            drop(permit);
            let told = *phase.borrow_and_update();
            match told {
                Phase::Hold(round) => self.members[nth].store(round, Ordering::Relaxed),
                Phase::End => return wire.close().await,
            }
            let mut changed = Box::pin(phase.changed());
            let broken = std::future::poll_fn(|cx| {
                if let Err(error) = wire.poll_frames(cx, |_, _| true).and_then(|()| wire.poll_flush(cx)) {
                    return Poll::Ready(Some(error));
                }
                changed.as_mut().poll(cx).map(|_| None)
            })
            .await;
            drop(changed);
            self.members[nth].store(0, Ordering::Relaxed);
            let told = *phase.borrow();
            match (broken, told) {
                (_, Phase::End) => return wire.close().await,
                (None, Phase::Hold(_)) => {
                    wire.abort();
                    seat.leave();
                }
                (Some(error), Phase::Hold(_)) => {
                    seat.lose(&self.plan, &error);
                }
            }
        }
    }
}
