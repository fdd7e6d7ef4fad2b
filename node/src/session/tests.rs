//! A session over a stream in memory, played by a test.

mod delivery;
mod life;
mod requests;

use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn send(id: u64) -> String {
    format!(r#"{{"id":{id},"send":{{"to":"bob","key":"k{id}","body":{{"n": {id}}}}}}}"#)
}

fn id_of(text: &str) -> u64 {
    crate::protocol::ServerFrame::decode(text).unwrap().id.unwrap()
}
