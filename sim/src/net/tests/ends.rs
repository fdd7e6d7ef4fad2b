//! Machines that lose power, processes that die, and those who want to talk to them.

use super::*;

#[test]
fn a_power_cut_is_silent_and_whoever_sent_meanwhile_is_reset_when_the_machine_is_back() {
    under_seeds(async |mut two: Two| {
        let (mut client, server) = two.pair().await;
        two.network.power_off(SERVER);
        // Its process lets go of the stream, and nobody hears of that.
        drop(server);
        assert!(is_silent(&mut client, HOUR).await, "neither an end nor a reset");
        client.write_all(b"x").await.unwrap();
        assert!(is_silent(&mut client, HOUR).await, "nobody is there to answer");
        two.network.start(SERVER);
        // TCP sends it again within 200 ms.
        assert_eq!(failure(&mut client, Duration::from_millis(200) + SOON).await, ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_machine_that_is_back_resets_what_it_is_sent_and_nothing_else() {
    under_seeds(async |mut two: Two| {
        let (mut client, _server) = two.pair().await;
        two.network.power_off(SERVER);
        two.network.start(SERVER);
        assert!(is_silent(&mut client, HOUR).await, "it knows of no stream");
        client.write_all(b"x").await.unwrap();
        assert_eq!(failure(&mut client, SOON).await, ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_killed_process_ends_its_streams_and_what_is_sent_then_is_reset() {
    under_seeds(async |mut two: Two| {
        let (mut client, mut server) = two.pair().await;
        two.network.kill(SERVER);
        let read = within(SOON, client.read(&mut [0; 8])).await.expect("an end");
        assert_eq!(read.unwrap(), 0);
        assert!(server.write_all(b"x").await.is_err(), "a dead process says nothing more");
        client.write_all(b"x").await.unwrap();
        time::sleep(SOON).await;
        assert_eq!(failure(&mut client, SOON).await, ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_killed_process_that_has_not_read_all_resets_its_streams() {
    under_seeds(async |mut two: Two| {
        let (mut client, _server) = two.pair().await;
        client.write_all(b"x").await.unwrap();
        time::sleep(SOON).await;
        two.network.kill(SERVER);
        assert_eq!(failure(&mut client, SOON).await, ErrorKind::ConnectionReset);
    });
}

#[test]
fn where_nobody_listens_connecting_is_refused() {
    under_seeds(async |two: Two| {
        drop(two.listener);
        let (took, connected) = timed(two.client.connect(&two.addr)).await;
        assert_eq!(connected.err().expect("nobody listens").kind(), ErrorKind::ConnectionRefused);
        assert!(took < SOON, "{took:?}");
    });
}

#[test]
fn where_the_process_is_dead_and_the_machine_is_not_connecting_is_refused() {
    under_seeds(async |two: Two| {
        two.network.kill(SERVER);
        assert_eq!(two.refusal().await, ErrorKind::ConnectionRefused);
        two.network.start(SERVER);
        assert_eq!(two.refusal().await, ErrorKind::ConnectionRefused, "it does not listen yet");
    });
}

#[test]
fn connecting_to_a_dark_machine_hangs_and_succeeds_once_it_listens_again() {
    under_seeds(async |two: Two| {
        two.network.power_off(SERVER);
        assert!(within(HOUR, two.client.connect(&two.addr)).await.is_none(), "not refused either");
        let back = async {
            time::sleep(Duration::from_secs(10)).await;
            two.network.start(SERVER).listen(&two.addr).await.unwrap()
        };
        let ((took, connected), _listener) = tokio::join!(timed(two.client.connect(&two.addr)), back);
        connected.unwrap();
        // Asked for at 0, 1, 3, 7 and 15 s.
        assert!(is_about(took, Duration::from_secs(15)), "{took:?}");
    });
}
