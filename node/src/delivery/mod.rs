//! The pure cores of delivery: what may be written to a client, what it has acknowledged, and how
//! fast it may send. State in, decisions out; the session's shell performs them.

mod pace;
mod window;

pub use pace::Pace;
pub use window::{BeyondSent, Window, WindowLimits};
