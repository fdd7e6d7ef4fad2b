"""What each alert is tested with: a state in which it is silent, one just below it, one above it."""

from dataclasses import dataclass, field

G = "im_gateway_"
LATENCY = G + "message_delivery_latency_seconds"
PROPOSAL = G + "proposal_latency_seconds"
MIN, HOUR = 60, 3600


@dataclass
class Case:
    alert: str
    ok: dict
    edge: dict
    bad: dict
    # Seconds: the rule's `for`, and how long a state must last to fill its window.
    wait: int
    window: int = 5 * MIN
    # Only the first pod is edgy or bad, and the alert names it.
    one: bool = False
    labels: dict = field(default_factory=dict)
    # How long `edge` lasts, for rules where it is the same trouble, over too soon.
    edge_lasts: int = 0
    # How long before trouble all is well.
    before: int = 10 * MIN
    # A process that began anew, or a pod's replacement, is what the alert is about.
    counts_starts: bool = False
    # Labels of the alert when there are no series at all; None: it is silent.
    no_data: dict | None = None
    # The trouble is over once the pod is replaced by a healthy one.
    heals: bool = False


def up(value=1):
    return {"up": value}


def messages(failed_share, rate=100.0):
    """Deliveries and failures whose labels differ, as they do in life."""
    return up() | {
        G + 'messages_delivered_total{type="direct"}': rate * (1 - failed_share),
        G + 'messages_failed_total{type="direct",reason="inbox_full"}': rate * failed_share,
    }


def histogram(name, over_02, over_05, over_1, rate=50.0):
    labels = '{type="direct",le="%s"}' if name == LATENCY else '{le="%s"}'
    count = "_count" + ('{type="direct"}' if name == LATENCY else "")
    rates = {"0.2": 1 - over_02, "0.5": 1 - over_05, "1": 1 - over_1, "2.5": 1.0, "+Inf": 1.0}
    return up() | {name + "_bucket" + labels % le: rate * share for le, share in rates.items()} | {name + count: rate}


def disk(slow):
    """Syncs, this share of which takes longer than 0.1 s."""
    name = G + "disk_sync_seconds"
    rates = {"0.05": 1 - slow, "0.1": 1 - slow, "0.5": 1.0, "+Inf": 1.0}
    return up() | {name + '_bucket{le="%s"}' % le: 10 * share for le, share in rates.items()} | {name + "_count": 10}


def per_delivery(counter, share):
    return messages(0) | {G + counter: 100.0 * share}


def connections(error, share, rate=10.0):
    # Sockets lost later are no connection errors in the alert's sense, however many.
    return up() | {
        G + "connections_established_total": rate,
        G + 'connection_errors_total{error_type="%s"}' % error: rate * share,
        G + 'connection_errors_total{error_type="io_error"}': rate,
    }


def refused(share, rate=10.0):
    """This share of those who want to connect is sent away."""
    return up() | {
        G + "connections_established_total": rate * (1 - share),
        G + 'connections_refused_total{limit="node_rate"}': rate * share,
    }


def cache(hits):
    return up() | {G + "cache_hits_total": hits, G + "cache_misses_total": 1 - hits}


def gauge(name, value):
    return up() | {name: value}


def cluster(voters_up=3, voters=3, **values):
    """A node's view of the cluster; `values` replaces single metrics."""
    view = {
        "ready": 1,
        'not_ready{reason="no_quorum"}': 0,
        'not_ready{reason="failed"}': 0,
        'not_ready{reason="draining"}': 0,
        "raft_has_leader": 1,
        'cluster_nodes{role="voter",up="true"}': voters_up,
        'cluster_nodes{role="voter",up="false"}': voters - voters_up,
        'peer_links{state="connected"}': 2,
        'peer_links{state="down"}': 0,
        'peer_links{state="refused"}': 0,
    }
    return up() | {G + name: value for name, value in (view | values.get("change", {})).items()}


NO_QUORUM = {"change": {"ready": 0, 'not_ready{reason="no_quorum"}': 1}}
DRAINS = {"change": {"ready": 0, 'not_ready{reason="draining"}': 1}}
# Restarted since then: such a node has not lost a quorum, it never had one, and it remembers who led.
NEVER_A_QUORUM = {"change": {"ready": 0, 'not_ready{reason="starting"}': 1}}


def applied(rate, checkpoint_lag=0):
    # Indexes are gauges that grow: the counter-like names exist for the generator only.
    return up() | {G + 'raft_index{kind="applied"}': rate, G + 'raft_index{kind="checkpoint"}': rate - checkpoint_lag}


CASES = [
    Case("IMGatewayServiceDown", up(), up(0), up(0), MIN, window=0, one=True, edge_lasts=45, heals=True,
         labels={"severity": "critical"}, no_data={"job": "im-gateway-service", "severity": "critical"}),
    Case("HighMessageLossRate", messages(0), messages(0.000095), messages(0.0002), 2 * MIN,
         labels={"severity": "critical"}),
    Case("HighMessageDeliveryLatency", histogram(LATENCY, 0.01, 0, 0), histogram(LATENCY, 0.02, 0.009, 0),
         histogram(LATENCY, 0.02, 0.015, 0), 5 * MIN, labels={"severity": "P1"}),
    Case("HighAckTimeoutRate", per_delivery("ack_timeout_total", 0), per_delivery("ack_timeout_total", 0.049),
         per_delivery("ack_timeout_total", 0.06), 5 * MIN, labels={"severity": "P2"}),
    # On a quiet service a few are many, and say nothing. Three nodes count 4 in five minutes, or 7.
    *[Case("HighAckTimeoutRate", quiet(0), quiet(1.4 / 300), quiet(2.4 / 300), 5 * MIN, labels={"severity": "P2"})
      for quiet in [lambda rate: messages(0, rate=0.001) | {G + "ack_timeout_total": rate}]],
    Case("TooManyActiveConnections", gauge(G + "active_connections", 5), gauge(G + "active_connections", 100000),
         gauge(G + "active_connections", 100001), 5 * MIN, window=0, one=True, heals=True,
         labels={"severity": "warning", "node": "n1"}),
    Case("HighConnectionErrorRate", connections("auth_failed", 0), connections("auth_failed", 0.095),
         connections("auth_failed", 0.12), 5 * MIN, labels={"severity": "warning"}),
    # On a quiet service a few are many. Three nodes count 4 in five minutes, or 7, and nobody gets in.
    *[Case("HighConnectionErrorRate", quiet(0), quiet(1.4 / 300), quiet(2.4 / 300), 5 * MIN, labels={"severity": "warning"})
      for quiet in [lambda rate: up() | {G + "connections_established_total": 0,
                                         G + 'connection_errors_total{error_type="auth_failed"}': rate}]],
    Case("IMGatewayConnectionsRefused", refused(0), refused(0.49), refused(0.52), 5 * MIN, window=2 * MIN,
         labels={"severity": "P2"}),
    # Three nodes send away 94 in two minutes, or 108.
    Case("IMGatewayConnectionsRefused", refused(0, 0.4), refused(0.65, 0.4), refused(0.75, 0.4), 5 * MIN,
         window=2 * MIN, labels={"severity": "P2"}),
    Case("HighOfflineQueueBacklog", gauge("im_service_offline_queue_size", 0),
         gauge("im_service_offline_queue_size", 10000), gauge("im_service_offline_queue_size", 10001), 5 * MIN,
         window=0, labels={"severity": "warning"}),
    Case("HighOfflineWorkerLag", gauge("im_service_offline_worker_lag", 0), gauge("im_service_offline_worker_lag", 1000),
         gauge("im_service_offline_worker_lag", 1001), 5 * MIN, window=0, labels={"severity": "warning"}),
    Case("LowCacheHitRate", cache(0.9), cache(0.71), cache(0.6), 5 * MIN, labels={"severity": "warning"}),
    Case("HighMessageDuplicationRate", per_delivery("message_duplication_total", 0),
         per_delivery("message_duplication_total", 0.0095), per_delivery("message_duplication_total", 0.012), 5 * MIN,
         labels={"severity": "warning"}),
    # Two cores: 1.58 CPU seconds a second are 79%.
    *[Case("HighCPUUsage", cpu(0.1), cpu(1.58), cpu(1.7), 5 * MIN, one=True, heals=True, labels={"severity": "warning"})
      for cpu in [lambda used: up() | {"process_cpu_seconds_total": used, G + "cpu_cores": 2}]],
    *[Case("HighMemoryUsage", memory(100), memory(800), memory(801), 5 * MIN, window=0, one=True, heals=True,
           labels={"severity": "warning"})
      for memory in [lambda used: up() | {"process_resident_memory_bytes": used, G + "memory_limit_bytes": 1000}]],
    *[Case("TooManyRuntimeTasks", tasks(2), tasks(10000), tasks(10001), 5 * MIN, window=0, one=True, heals=True,
           labels={"severity": "warning"})
      for tasks in [lambda n: up() | {G + "runtime_tasks": 50000 + n, G + "active_connections": 50000}]],

    Case("IMGatewayNoLeader", cluster(), cluster(**NO_QUORUM), cluster(**NO_QUORUM), MIN, window=0, edge_lasts=45,
         labels={"severity": "critical"}),
    Case("IMGatewayNoLeader", cluster(), cluster(**NEVER_A_QUORUM), cluster(**NEVER_A_QUORUM), MIN, window=0,
         edge_lasts=45, labels={"severity": "critical"}),
    Case("IMGatewayNoLeader", cluster(), cluster(change={"raft_has_leader": 0}), cluster(change={"raft_has_leader": 0}),
         MIN, window=0, edge_lasts=45, labels={"severity": "critical"}),
    Case("IMGatewayQuorumAtRisk", cluster(), cluster(2), cluster(2), MIN, window=0, edge_lasts=45,
         labels={"severity": "P1"}),
    Case("IMGatewayQuorumAtRisk", cluster(5, 5), cluster(4, 5), cluster(3, 5), MIN, window=0, labels={"severity": "P1"}),
    Case("IMGatewayNodeNotReady", cluster(), cluster(change={'not_ready{reason="draining"}': 1}), cluster(**NO_QUORUM),
         2 * MIN, window=0, one=True, heals=True, labels={"severity": "P2", "node": "n1", "reason": "no_quorum"}),
    # Neither one that ends within half an hour, nor another reason.
    Case("IMGatewayDraining", cluster(), cluster(**DRAINS), cluster(**DRAINS), 30 * MIN, window=0, one=True, heals=True,
         edge_lasts=29 * MIN, labels={"severity": "warning", "node": "n1", "reason": "draining"}),
    Case("IMGatewayDraining", cluster(), cluster(**NO_QUORUM), cluster(**DRAINS), 30 * MIN, window=0, one=True, heals=True,
         labels={"severity": "warning", "node": "n1", "reason": "draining"}),
    *[Case("IMGatewayPeerLinkDown", cluster(), cluster(change={'peer_links{state="connected"}': 1}),
           cluster(change={'peer_links{state="%s"}' % state: 1}), 2 * MIN, window=0, one=True, heals=True,
           labels={"severity": "P2", "state": state}) for state in ("down", "refused")],
    *[Case("IMGatewayDiskFailing", failing(0), failing(0), failing(0.01), 0, window=15 * MIN, one=True, heals=True,
           labels={"severity": "P1"})
      for failing in [lambda rate: up() | {G + 'disk_errors_total{operation="blob_write"}': rate}]],
    *[Case("IMGatewayDiskFilling", room(500), room(100), room(99), 15 * MIN, window=0, one=True, heals=True,
           labels={"severity": "P2"})
      for room in [lambda free: up() | {G + "data_free_bytes": free, G + "data_size_bytes": 1000}]],
    Case("IMGatewayDiskFailing", applied(90000), applied(90000, 40000), applied(90000, 40001), 0, window=0, one=True,
         heals=True, labels={"severity": "P1"}),
    Case("IMGatewaySlowProposals", histogram(PROPOSAL, 0, 0, 0), histogram(PROPOSAL, 0.02, 0.02, 0.009),
         histogram(PROPOSAL, 0.02, 0.02, 0.015), 5 * MIN, labels={"severity": "P2"}),
    Case("IMGatewayDiskSlow", disk(0), disk(0.095), disk(0.12), 5 * MIN, one=True, heals=True,
         labels={"severity": "P2"}),
    Case("IMGatewayBreakerOpen", gauge(G + "breaker_open", 0), gauge(G + "breaker_open", 1),
         gauge(G + "breaker_open", 1), 10 * MIN, window=0, edge_lasts=9 * MIN, labels={"severity": "P2"}),
    Case("IMGatewayNoTraffic", messages(0), messages(0, rate=0.01), messages(0, rate=0.0), 5 * MIN, window=16 * MIN,
         before=80 * MIN, labels={"severity": "P2"}),
    # Time begins at 0 here, so they end so many days from then; the courses take less than an hour and a half.
    *[Case(alert, ends(90), ends(days + 0.06), ends(days), wait, window=0, one=True, heals=True,
           labels={"severity": severity, "node": "n1", "port": "clients"})
      for alert, days, wait, severity in [("IMGatewayCertificateExpiring", 14, HOUR, "warning"),
                                          ("IMGatewayCertificateAlmostExpired", 2, 5 * MIN, "P1")]
      for ends in [lambda days: up() | {G + 'certificate_expiry_timestamp_seconds{port="clients"}': days * 86400}]],

    *[Case("IMGatewayTelemetryDropped", lost(0), lost(0), lost(0.02), 5 * MIN, window=15 * MIN, one=True, heals=True,
           labels={"severity": "warning", "node": "n1"})
      for counter in ['otlp_dropped_total{reason="export",signal="logs"}', "log_lines_dropped_total"]
      for lost in [lambda rate, counter=counter: up() | {
          G + counter: rate, G + 'otlp_dropped_total{reason="rate",signal="traces"}': 5}]],
    *[Case("IMGatewayMetricsMissing", cluster(), up(), up(), 5 * MIN, window=0, one=True, heals=True, edge_lasts=4 * MIN,
           labels={"severity": "P1"})],
    Case("IMGatewayMetricsMissing", cluster(), cluster(), cluster(4, 4), 5 * MIN, window=0, labels={"severity": "P1"}),
]

# What may go on for months: (slo, silent, just below, above) at the given multiple of the budget.
BUDGETS = {"availability": 0.0005, "latency": 0.01, "success": 0.0001}


def burning(slo, times):
    share = BUDGETS[slo] * times
    return {
        "success": lambda: messages(share),
        "latency": lambda: histogram(LATENCY, share, 0, 0),
    }[slo]()
