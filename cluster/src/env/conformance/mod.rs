//! One suite for all implementations of the seam, real and simulated.
//!
//! Invariant: what the traits of [`super`] promise is checked here and nowhere else, so code that
//! works over one implementation works over the other. A case panics when a promise is broken; how
//! it makes things happen (a crash, a peer's death) it asks of its world.

mod blobs;
mod clock;
mod kv;
mod net;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;

use super::{Blobs, Kv};

pub use blobs::cases as blobs_cases;
pub use clock::cases as clock_cases;
pub use kv::cases as kv_cases;
pub use net::{NetWorld, Victim, cases as net_cases, echo};

/// One promise, and how to check it in a fresh world `W`.
pub struct Case<W: ?Sized> {
    /// What is promised.
    pub name: &'static str,
    /// Checks it; panics when it is broken.
    pub run: for<'a> fn(&'a W) -> CaseFuture<'a>,
}

/// A running case.
pub type CaseFuture<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Lists cases: async functions of a world.
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        vec![$($crate::env::conformance::Case { name: stringify!($name), run: |world| Box::pin($name(world)) }),*]
    };
}
use cases;

/// A machine with one store, for a case that wants to see it crash.
#[async_trait]
pub trait StoreWorld<S: ?Sized + 'static>: Send + Sync {
    /// Opens the store, empty.
    async fn open(&self) -> Arc<S>;
    /// Closes the store in good order and opens it again. `store` is its only handle.
    async fn reopen(&self, store: Arc<S>) -> Arc<S>;
    /// The process dies at this instant; opens what survived.
    async fn crash(&self, store: Arc<S>) -> Arc<S>;
}

/// The world of a [`Kv`].
pub type KvWorld = dyn StoreWorld<dyn Kv>;
/// The world of [`Blobs`].
pub type BlobsWorld = dyn StoreWorld<dyn Blobs>;

/// Numbers for cases that try many inputs: the same at each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }
}
