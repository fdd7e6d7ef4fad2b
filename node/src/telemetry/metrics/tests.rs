use crate::telemetry::CONNECTION_LOST;

use super::*;
use cluster::id::{MessageId, UserId};

#[test]
fn everything_that_alerts_read_exists_at_zero() {
    let text = Metrics::new().render("n1");
    for line in [
        r#"im_gateway_active_connections{node="n1"} 0"#,
        r#"im_gateway_connections_established_total{node="n1"} 0"#,
        r#"im_gateway_connections_closed_total{node="n1",reason="client_disconnect"} 0"#,
        r#"im_gateway_connection_errors_total{node="n1",error_type="auth_failed"} 0"#,
        r#"im_gateway_messages_delivered_total{node="n1",type="direct"} 0"#,
        r#"im_gateway_messages_delivered_total{node="n1",type="group"} 0"#,
        r#"im_gateway_messages_failed_total{node="n1",reason="expired",type="system"} 0"#,
        r#"im_gateway_message_delivery_latency_seconds_bucket{node="n1",type="direct",le="0.2"} 0"#,
        r#"im_gateway_message_delivery_latency_seconds_bucket{node="n1",type="direct",le="0.5"} 0"#,
        r#"im_gateway_ack_timeout_total{node="n1"} 0"#,
        r#"im_gateway_signals_total{node="n1",kind="typing",outcome="told"} 0"#,
        r#"im_gateway_signals_total{node="n1",kind="read",outcome="dropped"} 0"#,
        r#"im_gateway_held_back_total{node="n1",rate="connection"} 0"#,
        r#"im_gateway_held_back_total{node="n1",rate="user"} 0"#,
        r#"im_gateway_go_away_total{node="n1",reason="drain"} 0"#,
        r#"im_gateway_token_refreshes_total{node="n1",outcome="refused"} 0"#,
        r#"im_gateway_sessions_revoked_total{node="n1"} 0"#,
        r#"im_gateway_devices_forgotten_total{node="n1",reason="age"} 0"#,
        r#"im_gateway_draining_connections{node="n1"} 0"#,
        r#"im_gateway_state{node="n1",of="memberships"} 0"#,
        r#"im_gateway_data_free_bytes{node="n1"} 0"#,
        r#"im_gateway_data_size_bytes{node="n1"} 0"#,
        r#"im_gateway_message_duplication_total{node="n1"} 0"#,
        r#"im_gateway_connection_duration_seconds_count{node="n1"} 0"#,
        r#"im_gateway_network_receive_bytes_total{node="n1"} 0"#,
        r#"im_gateway_network_transmit_bytes_total{node="n1"} 0"#,
        r#"im_gateway_send_queue{node="n1"} 0"#,
        r#"im_gateway_writer_queue{node="n1"} 0"#,
        r#"im_gateway_late_deliveries_total{node="n1"} 0"#,
        r#"im_gateway_raft_elections_total{node="n1"} 0"#,
        r#"im_gateway_checkpoint_seconds_count{node="n1"} 0"#,
        r#"im_gateway_presence_staleness_seconds{node="n1"} 0"#,
        r#"im_gateway_disk_sync_seconds_count{node="n1"} 0"#,
        r#"im_gateway_disk_errors_total{node="n1",operation="sync"} 0"#,
        r#"im_gateway_cpu_cores{node="n1"} 0"#,
        r#"im_gateway_memory_limit_bytes{node="n1"} 0"#,
        r#"im_gateway_cache_hits_total{node="n1"} 0"#,
        r#"im_gateway_cache_misses_total{node="n1"} 0"#,
        r#"im_gateway_cache_size{node="n1"} 0"#,
        r#"im_service_offline_queue_size{node="n1"} 0"#,
        r#"im_service_offline_worker_lag{node="n1"} 0"#,
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
}

#[test]
fn counts() {
    let metrics = Metrics::new();
    metrics.connection_opened();
    metrics.connection_opened();
    metrics.connection_closed(CONNECTION_LOST, Duration::from_secs(3));
    metrics.received(3);
    metrics.sent(4);
    metrics.delivered_late(6);
    metrics.elections(2);
    metrics.checkpoint(Duration::from_millis(70));
    metrics.delivered(Audience::Direct, 5);
    metrics.delivered(Audience::Group, 7);
    metrics.failed(Audience::Direct, "inbox_full", 2, None);
    let (mid, by) = (MessageId([9; 16]), UserId::new("bob").unwrap());
    let delivery = Delivery { mid: &mid, by: &by, group: None, trace: None };
    metrics.delivery_latency(&delivery, Duration::from_millis(150));
    metrics.forgotten(Forgotten::Age);
    metrics.signal_dropped(News::Typing);
    metrics.signal(News::Read(mid), true);
    let text = metrics.render("n");
    for line in [
        r#"im_gateway_active_connections{node="n"} 1"#,
        r#"im_gateway_connection_duration_seconds_sum{node="n"} 3"#,
        r#"im_gateway_network_receive_bytes_total{node="n"} 3"#,
        r#"im_gateway_network_transmit_bytes_total{node="n"} 4"#,
        r#"im_gateway_late_deliveries_total{node="n"} 6"#,
        r#"im_gateway_devices_forgotten_total{node="n",reason="age"} 1"#,
        r#"im_gateway_signals_total{node="n",kind="typing",outcome="dropped"} 1"#,
        r#"im_gateway_signals_total{node="n",kind="read",outcome="told"} 1"#,
        r#"im_gateway_raft_elections_total{node="n"} 2"#,
        r#"im_gateway_checkpoint_seconds_bucket{node="n",le="0.05"} 0"#,
        r#"im_gateway_checkpoint_seconds_bucket{node="n",le="0.1"} 1"#,
        r#"im_gateway_connections_closed_total{node="n",reason="connection_lost"} 1"#,
        r#"im_gateway_messages_delivered_total{node="n",type="direct"} 5"#,
        r#"im_gateway_messages_delivered_total{node="n",type="group"} 7"#,
        r#"im_gateway_messages_failed_total{node="n",reason="inbox_full",type="direct"} 2"#,
        r#"im_gateway_message_delivery_latency_seconds_bucket{node="n",type="direct",le="0.1"} 0"#,
        r#"im_gateway_message_delivery_latency_seconds_bucket{node="n",type="direct",le="0.2"} 1"#,
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
}

#[test]
fn connections_share_a_gauge() {
    let metrics = std::sync::Arc::new(Metrics::new());
    let queue = || {
        let text = metrics.render("n");
        let line = text.lines().find_map(|line| line.strip_prefix(r#"im_gateway_writer_queue{node="n"} "#));
        line.unwrap().to_owned()
    };
    let mut one = crate::telemetry::Part::of_writer_queue(metrics.clone());
    let mut other = crate::telemetry::Part::of_writer_queue(metrics.clone());
    one.set(30);
    other.set(5);
    assert_eq!(queue(), "35");
    one.set(10);
    assert_eq!(queue(), "15");
    drop(one);
    assert_eq!(queue(), "5");
    drop(other);
    assert_eq!(queue(), "0");
}

/// The page that operators read names every metric, and no other.
#[test]
fn every_metric_is_documented() {
    let page = include_str!("../../../../docs/metrics.md");
    let mut documented: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("| `")?.split(['`', '{']).next()).collect();
    let metrics = Metrics::new();
    // There only where there is TLS: a certificate that ends in 1970 would be bad news.
    metrics.certificate_ends("clients", 1);
    let families = metrics.registry.gather();
    let mut made: Vec<&str> = families.iter().map(|family| family.name()).collect();
    documented.sort_unstable();
    made.sort_unstable();
    assert_eq!(documented, made);
}
