//! Profiles of a running node, read as pprof reads them.

use std::io::Read;

use flate2::read::GzDecoder;
use pprof::protos::{Message, Profile};

use crate::common::TestCluster;
use crate::common::http::get;

/// The names of the functions on the stacks of a profile's samples, after a look at its form.
fn functions(bytes: &[u8]) -> Vec<String> {
    let mut plain = Vec::new();
    let bytes = match GzDecoder::new(bytes).read_to_end(&mut plain) {
        Ok(_) => &plain,
        Err(_) => bytes,
    };
    let profile = Profile::parse_from_bytes(bytes).expect("it is a profile");
    assert!(!profile.sample.is_empty() && !profile.sample_type.is_empty(), "there is something in it");
    let mut names = Vec::new();
    for sample in &profile.sample {
        assert_eq!(sample.value.len(), profile.sample_type.len(), "each sample has each value");
        for id in &sample.location_id {
            let location = profile.location.iter().find(|location| location.id == *id).expect("a location is listed");
            for line in &location.line {
                let function = profile.function.iter().find(|function| function.id == line.function_id);
                let name = function.expect("a function is listed").name;
                names.push(profile.string_table[usize::try_from(name).unwrap()].clone());
            }
        }
    }
    names
}

#[tokio::test]
async fn a_node_tells_what_it_spends_time_and_memory_on() {
    let cluster = TestCluster::start(1).await;
    let addr = cluster.addr(0);
    let profile = async |seconds: &str| get(&addr, &format!("/debug/pprof/profile?seconds={seconds}")).await.unwrap();
    let busy = async {
        loop {
            get(&addr, "/metrics").await.unwrap();
        }
    };
    // Two at once: the first samples, the other is told to wait.
    let answers = async { tokio::join!(profile("2"), profile("1")) };
    let (first, second) = tokio::select! { answers = answers => answers, () = busy => unreachable!() };
    let (taken, refused) = if first.status == 200 { (first, second) } else { (second, first) };
    assert_eq!((taken.status, refused.status), (200, 409), "{}", refused.body);
    let names = functions(&taken.bytes);
    assert!(names.iter().any(|name| name.contains("scrape")), "{names:?}");

    let heap = get(&addr, "/debug/pprof/heap").await.unwrap();
    assert_eq!(heap.status, 200, "{}", heap.body);
    let names = functions(&heap.bytes);
    assert!(names.iter().any(|name| name.contains("sled")), "{names:?}");

    let tasks = get(&addr, "/debug/pprof/goroutine").await.unwrap();
    let names = functions(&tasks.bytes);
    assert!(names.iter().any(|name| name.contains("http/accept.rs:")), "{names:?}");
    assert!(names.iter().any(|name| name.starts_with("openraft")), "{names:?}");

    for bad in ["0", "301", "soon", "-1", ""] {
        let answer = profile(bad).await;
        assert_eq!(answer.status, 400, "{bad}");
        assert!(answer.body.contains("whole seconds from 1 to 300"), "{}", answer.body);
    }
}
