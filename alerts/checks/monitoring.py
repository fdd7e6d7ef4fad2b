"""Courses of alerts about Prometheus and its company, which have series of their own."""

from cases import HOUR, MIN, up
from series import STEP, Pod

DAMAGED = "prometheus_tsdb_wal_corruptions_total"
STORAGE = ["prometheus_tsdb_compactions_failed_total", "prometheus_tsdb_head_truncations_failed_total", DAMAGED]


def of_the_watchdog(suite):
    """Fires from the first moment on, whatever there is or is not."""
    labels = {"severity": "none", "service": "monitoring"}
    for pods in ([], [Pod(1, [(HOUR, up())])]):
        suite.add("Watchdog", "fires", pods, [(t, labels) for t in range(0, HOUR, MIN)])


def of_the_monitoring(suite):
    """Alerts about Prometheus and its company: silent, firing, and just below where that is a state of its own."""
    exporter = '{exporter="otlp"}'
    queued = lambda size: {"otelcol_exporter_queue_size" + exporter: size, "otelcol_exporter_queue_capacity" + exporter: 1000}
    service = {"service": "monitoring", "severity": "P2"}
    for alert, job, ok, bad, edge, extra in [
        ("MonitoringComponentDown", "loki", up(), up(0), None, {}),
        ("MonitoringComponentDown", "otel-agent", up(), up(0), None, {}),
        ("TelemetryNotShipped", "otel-agent", queued(100), queued(600), queued(500), {"exporter": "otlp", "severity": "warning"}),
        ("TelemetryNotShipped", "otel-collector", *[{'otelcol_exporter_enqueue_failed_spans_total{exporter="otlphttp/loki"}': rate}
                                                    for rate in (0, 0.1, 0)], {"exporter": "otlphttp/loki", "severity": "warning"}),
        *[("PrometheusStorageFailing", "prometheus", stores, stores | {failed: 0.1}, stores if failed == DAMAGED else None, {})
          for stores in [dict.fromkeys(STORAGE, 0)] for failed in STORAGE],
        ("PrometheusRuleFailures", "prometheus", *[{'prometheus_rule_evaluation_failures_total{rule_group="g"}': rate}
                                                   for rate in (0, 0.1)], None, {"rule_group": "g"}),
        ("AlertsNotDelivered", "prometheus", {"prometheus_notifications_dropped_total": 0},
         {"prometheus_notifications_dropped_total": 0.1}, None, {}),
        ("AlertsNotDelivered", "alertmanager", {'alertmanager_notifications_failed_total{integration="slack"}': 0},
         {'alertmanager_notifications_failed_total{integration="slack"}': 0.1}, None, {"integration": "slack"}),
    ]:
        labels = service | extra | {"job": job, "instance": "gw-1:8080"}
        pod = lambda phases, number=1, **more: Pod(number, phases, job=job, **more)
        hold, start, after = 11 * MIN, 10 * MIN, 16 * MIN
        suite.add(alert, "fires", [pod([(start, ok), (hold, bad)])], [(start + 4 * MIN, None), (start + hold - STEP, labels)])
        # One that is over at once, less than `for` with its window.
        short = 4 * MIN if "up" in ok else STEP
        below = [(start, ok), (short, bad), (hold, ok)] if edge is None else [(start, ok), (hold, edge)]
        suite.add(alert, "just below", [pod(below)],
                  [(start + t, None) for t in range(0, hold, 30)])
        suite.add(alert, "resolves", [pod([(start, ok), (hold, bad), (after, ok)])],
                  [(start + hold - STEP, labels), (start + hold + after, None)])
        suite.add(alert, "no data", [pod([(hold, up())])], [(hold, None)])
        suite.add(alert, "restart", [pod([(start + hold, ok)], restarts=[start])], [(start + hold, None)])
        suite.add(alert, "replaced", [pod([(start, ok), (hold, bad)], end=start + hold - MIN),
                                      pod([(start + 3 * hold, ok)], number=2, begin=start + hold)],
                  [(start + hold - 2 * MIN, labels), (start + 3 * hold - MIN, None)])
    # A way that is closed fails with each word of the group, every five minutes: that is one trouble, without pauses.
    fails = 'alertmanager_notifications_failed_total{integration="slack"}'
    closed = [(5 * MIN - STEP, {fails: 0}), (STEP, {fails: 1 / STEP})] * 8
    labels = service | {"job": "alertmanager", "instance": "gw-1:8080", "integration": "slack"}
    suite.add("AlertsNotDelivered", "fires", [Pod(1, closed, job="alertmanager")],
              [(10 * MIN, None)] + [(t, labels) for t in range(16 * MIN, 39 * MIN, STEP)], "AlertsNotDelivered: every five minutes")


def of_what_is_known_late(suite):
    """Counters that begin with their first failure, and processes that begin anew."""
    collector = {"job": "otel-collector", "service": "monitoring", "instance": "gw-1:8080", "severity": "warning",
                 "exporter": "otlphttp/loki"}
    # Its values as they are scraped: the name without `_total` is no counter to the generator. None: not there yet.
    failed = 'otelcol_exporter_send_failed_log_records{exporter="otlphttp/loki"}'
    course = lambda *parts: [Pod(1, [(length, up() if value is None else up(0) if value == "down" else up() | {failed: value})
                                     for length, value in parts], job="otel-collector")]
    name = "TelemetryNotShipped"
    suite.add(name, "fires", course((10 * MIN, None), (HOUR, 7)),
              [(14 * MIN, None), (16 * MIN, collector), (24 * MIN, collector), (26 * MIN, None)], f"{name}: the first failure")
    life = [(2 * STEP, None), (3 * MIN, 5), (STEP, "down")]
    suite.add(name, "restart", course(*life * 15),
              [(5 * MIN, None)] + [(t, collector) for t in range(6 * MIN, 55 * MIN, 30)], f"{name}: a collector that ends again and again")
    suite.add(name, "restart", course((20 * MIN, 100), (HOUR, 3)), [(24 * MIN, None), (26 * MIN, collector)],
              f"{name}: fewer failures than before the restart")
    for what, then in [("a restart, and all is well", (HOUR, None)), ("it was not reached", (HOUR, 100))]:
        suite.add(name, "restart", course((HOUR, 100), (10 * MIN, "down"), then),
                  [(t, None) for t in range(0, 2 * HOUR, MIN)], f"{name}: {what}")

    prometheus = {"job": "prometheus", "service": "monitoring", "instance": "gw-1:8080", "severity": "P2"}
    stores = dict.fromkeys(STORAGE, 0)
    found = [(20 * MIN, stores), (STEP, stores | {DAMAGED: 1 / STEP}), (HOUR, stores)]
    suite.add("PrometheusStorageFailing", "fires", [Pod(1, found, job="prometheus")],
              [(24 * MIN, None), (26 * MIN, prometheus), (40 * MIN, None)], "PrometheusStorageFailing: found at a start")
    # Full disk: tried again every two minutes.
    full = [(2 * MIN - STEP, stores), (STEP, stores | {STORAGE[0]: 1 / STEP})] * 20
    suite.add("PrometheusStorageFailing", "fires", [Pod(1, full, job="prometheus")],
              [(5 * MIN, None)] + [(t, prometheus) for t in range(8 * MIN, 39 * MIN, STEP)], "PrometheusStorageFailing: tried again")
