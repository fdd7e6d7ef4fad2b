//! Buffers that are bounded, whoever reads, and how much of a read or a write is done at a time.

use super::*;
use crate::net::pipe::{TINY_WINDOW, WINDOW};

/// No progress for this long is a stall.
const STALL: Duration = Duration::from_secs(1);

/// Writes until nothing more goes; how much went.
async fn fill(conn: &mut BoxConn) -> usize {
    let mut sent = 0;
    while let Some(wrote) = within(STALL, conn.write(&[7; 4096])).await {
        sent += wrote.unwrap();
    }
    sent
}

#[test]
fn a_reader_that_stalls_holds_the_writer_back_for_as_long() {
    under_seeds(async |mut two: Two| {
        let (mut client, mut server) = two.pair().await;
        assert_eq!(fill(&mut client).await, 2 * WINDOW, "what both ends' buffers take");
        assert!(within(HOUR, client.write(b"x")).await.is_none());
        let pause = Duration::from_secs(3);
        let reader = async {
            time::sleep(pause).await;
            server.read_exact(&mut [0; 100]).await.unwrap();
        };
        let ((took, wrote), ()) = tokio::join!(timed(client.write_all(b"x")), reader);
        wrote.unwrap();
        assert!(is_about(took, pause), "{took:?}");
        assert!(pass(&mut server, &mut client).await < SOON, "the way back has room");
        let mut rest = vec![0; 2 * WINDOW - 100 + 1];
        server.read_exact(&mut rest).await.unwrap();
        assert_eq!((rest[0], rest.last()), (7, Some(&b'x')), "nothing was lost");
    });
}

#[test]
fn tiny_buffers_take_little_and_lose_nothing() {
    under_seeds(async |mut two: Two| {
        two.network.make_buffers_tiny();
        let (mut client, mut server) = two.pair().await;
        assert_eq!(fill(&mut client).await, 2 * TINY_WINDOW);
        server.read_exact(&mut vec![0; 2 * TINY_WINDOW]).await.unwrap();
        let sent = bytes(20_000);
        let mut got = vec![0; sent.len()];
        let (wrote, read) = tokio::join!(client.write_all(&sent), server.read_exact(&mut got));
        wrote.unwrap();
        read.unwrap();
        assert_eq!(got, sent);
    });
}

/// How many of 200 writes of 100 bytes are taken in part, and how many reads of that are.
async fn partial(client: &mut BoxConn, server: &mut BoxConn) -> (usize, usize) {
    let (mut writes, mut reads) = (0, 0);
    for _ in 0..200 {
        let wrote = client.write(&[7; 100]).await.unwrap();
        time::sleep(SOON).await;
        let read = server.read(&mut [0; 100]).await.unwrap();
        assert!((1..=100).contains(&wrote) && (1..=wrote).contains(&read));
        writes += usize::from(wrote < 100);
        reads += usize::from(read < wrote);
        server.read_exact(&mut vec![0; wrote - read]).await.unwrap();
    }
    (writes, reads)
}

#[test]
fn some_writes_and_reads_are_done_in_part_and_with_tiny_buffers_many() {
    under_seeds(async |mut two: Two| {
        let (mut client, mut server) = two.pair().await;
        let (writes, reads) = partial(&mut client, &mut server).await;
        assert!((1..70).contains(&writes) && (1..70).contains(&reads), "{writes} and {reads} of 200");
        two.network.make_buffers_tiny();
        let (mut client, mut server) = two.pair().await;
        let (writes, reads) = partial(&mut client, &mut server).await;
        assert!((60..140).contains(&writes) && (30..140).contains(&reads), "{writes} and {reads} of 200");
    });
}
