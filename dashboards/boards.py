"""The dashboards. Ratios are those of the alerts, so that a line and its alert agree."""

from panels import (GREEN, ORANGE, RED, YELLOW, dashboard, gauge, graph, log_query, panel, query, reduce, stat, steps, table)

HERE = '{job="$job",instance=~"$instance"}'
G = "im_gateway_"
LATENCY = G + "message_delivery_latency_seconds"
LOGS = '{service_name="im-gateway-service"}'


def here(**labels):
    more = "".join(f',{name}{value}' for name, value in labels.items())
    return '{job="$job",instance=~"$instance"' + more + "}"


def rate(metric, by="", labels=HERE):
    total = f"rate({G}{metric}{labels}[$__rate_interval])"
    return f"sum by ({by}) ({total})" if by else f"sum({total})"


def share(part, whole):
    return f"{part} / ({whole} > 0)"


def quantile(q, metric, labels=HERE):
    return f"histogram_quantile({q}, sum by (le) (rate({metric}_bucket{labels}[$__rate_interval])))"


def heatmap(title, description, metric, size=(12, 8)):
    """How many observations were in which bucket, over time."""
    return panel("heatmap", title, description,
                 [query(f"sum by (le) (increase({metric}_bucket{HERE}[$__rate_interval]))", "{{le}}", fmt="heatmap")], "s",
                 size=size, options={
                     "calculate": False, "cellGap": 1, "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64,
                     "exponent": 0.5, "fill": "dark-orange", "reverse": False}, "yAxis": {"axisPlacement": "left", "unit": "s"},
                     "exemplars": {"color": "rgba(255,0,255,0.7)"}, "filterValues": {"le": 1e-9}, "legend": {"show": False},
                     "rowsFrame": {"layout": "auto"}, "tooltip": {"mode": "single", "yHistogram": False, "showColorScale": False},
                     "showValue": "never"})


REFUSED = here(error_type='!~"io_error|ping_timeout|slow_consumer"')
CONNECTIONS = dashboard("im-gateway-connections", "Who is connected, who comes and goes, and who cannot.", [
    gauge("Active Connections", "Open WebSockets on the fullest node; the warning is at 100,000.",
          query(f"max({G}active_connections{HERE})"), "short", steps((80000, YELLOW), (100000, RED)), 0, 120000,
          alert="TooManyActiveConnections"),
    graph("Active Connections by Node", "The warning's limit is drawn.",
          [query(f"{G}active_connections{HERE}", "{{instance}}")], limits=[(100000, RED)], size=(10, 8),
          alert="TooManyActiveConnections"),
    graph("Sessions", "Registered in the cluster, and sockets that are open: those that differ for long are stuck.",
          [query(f"max({G}sessions" + here(of='="cluster"') + ")", "sessions"),
           query(f"sum({G}active_connections{HERE})", "sockets")], size=(8, 8)),
    graph("Connection Rate", "WebSockets opened and closed per second.",
          [query(rate("connections_established_total"), "opened"), query(rate("connections_closed_total"), "closed")],
          "cps"),
    graph("Connection Errors", "Per second, by kind.",
          [query(rate("connection_errors_total", "error_type"), "{{error_type}}")], "cps", alert="HighConnectionErrorRate"),
    graph("Connection Error Rate", "Refused or broken before they were of use, per connection opened; the warning is at 10%, and five of them.",
          [query(f"{rate('connection_errors_total', labels=REFUSED)} / clamp_min({rate('connections_established_total')}, 10 / 300)",
                 "error rate")], "percentunit", [(0.1, RED)], alert="HighConnectionErrorRate"),
    graph("Connections Closed by Reason", "Per second; the words are those of the close codes.",
          [query(rate("connections_closed_total", "reason") + " > 0", "{{reason}}")], "cps"),
    graph("Connections Refused", "Told to come again later, per second, by the limit of [admission] that was met.",
          [query(rate("connections_refused_total", "limit"), "{{limit}}")], "cps", alert="IMGatewayConnectionsRefused"),
    heatmap("Connection Duration", "How long connections had lasted that ended.", G + "connection_duration_seconds"),
    stat("Average Connection Duration", "Of connections that ended in the range shown.",
         query(f"sum(increase({G}connection_duration_seconds_sum{HERE}[$__range]))"
               f" / (sum(increase({G}connection_duration_seconds_count{HERE}[$__range])) > 0)"), "s", size=(4, 8)),
    graph("Waiting to Be Written", "Bytes that clients do not take, by node.",
          [query(f"{G}writer_queue{HERE}", "{{instance}}")], "bytes", size=(8, 8)),
    table("Top Users by Connections", "Connections opened in the range shown, from the log: metrics know no users.",
          [log_query(f'topk(10, sum by (user_id) (count_over_time({LOGS} | json | event="connection_established" [$__range])))',
                     instant=True)], size=(8, 8)),
])

DELIVERED, FAILED = rate("messages_delivered_total"), rate("messages_failed_total")
MESSAGES = dashboard("im-gateway-messages", "Messages: how many, how fast, and what became of them.", [
    graph("Message Throughput", "Delivered and failed per second, by kind of message.",
          [query(rate("messages_delivered_total", "type"), "delivered {{type}}"),
           query(rate("messages_failed_total", "type"), "failed {{type}}")], "mps"),
    graph("Message Delivery Latency", "From a send's arrival to the first acknowledgement. Drawn: objective 200 ms, alert 500 ms.",
          [query(quantile(q, LATENCY), f"P{int(q * 100)}") for q in (0.5, 0.95, 0.99)], "s", [(0.2, YELLOW), (0.5, RED)],
          alert="HighMessageDeliveryLatency"),
    gauge("Message Success Rate", "Delivered of delivered and failed, in the range shown. The objective is 99.99%.",
          query(f"1 - sum(increase({G}messages_failed_total{HERE}[$__range])) / ((sum(increase({G}messages_delivered_total{HERE}[$__range]))"
                f" + sum(increase({G}messages_failed_total{HERE}[$__range]))) > 0)"), "percentunit",
          steps((0.999, ORANGE), (0.9999, GREEN), base=RED), 0.99, 1, alert="HighMessageLossRate"),
    graph("Failed Messages by Reason", "Per second.", [query(rate("messages_failed_total", "reason"), "{{reason}}")], "mps",
          size=(9, 8), alert="HighMessageLossRate"),
    heatmap("Latency Distribution", "Deliveries by latency.", LATENCY, size=(9, 8)),
    graph("ACK Timeout Rate", "Acknowledgements over the timeout, per delivered message; the alert is at 5%.",
          [query(f"{rate('ack_timeout_total')} / clamp_min({DELIVERED}, 0.01)", "timeouts")], "percentunit", [(0.05, RED)],
          alert="HighAckTimeoutRate"),
    graph("Message Duplication Rate", "Repeated sends that were recognised, per delivered message; the warning is at 1%.",
          [query(f"{rate('message_duplication_total')} / clamp_min({DELIVERED}, 0.01)", "repeats")], "percentunit",
          [(0.01, RED)], alert="HighMessageDuplicationRate"),
    graph("Waiting for an Answer", "Messages taken from clients that have no answer yet, by node.",
          [query(f"{G}send_queue{HERE}", "{{instance}}")], size=(8, 8)),
    graph("Late Deliveries", "Messages that had waited for an absent device, per second: delivered, and in no latency.",
          [query(rate("late_deliveries_total"), "late")], "mps", size=(8, 8)),
    graph("Breaker", "1 while it is open: messages are stored, and nobody gets one.",
          [query(f"max({G}breaker_open{HERE})", "open")], limits=[(1, RED)], size=(8, 8), alert="IMGatewayBreakerOpen"),
    graph("Offline Queue Size", "Messages that wait in inboxes, in the whole cluster; the warning is at 10,000.",
          [query(f"max(im_service_offline_queue_size{HERE})", "waiting"),
           query(f"max(im_service_offline_worker_lag{HERE})", "worker lag")], limits=[(10000, RED)],
          alert="HighOfflineQueueBacklog"),
    table("Top Users by Messages", "Delivered messages in the range shown, from the log, which holds a sample of them.",
          [log_query(f'topk(10, sum by (user_id) (count_over_time({LOGS} | json | event="message_delivered" [$__range])))',
                     instant=True)]),
])

PROCESS = '{job="$job",instance=~"$instance"}'
# However many nodes the cluster has.
ALL_OF_THEM = steps((0.001, ORANGE), (1, GREEN), base=RED)
HEALTH = dashboard("im-gateway-health", "The nodes' processes and what they use.", [
    stat("Nodes Up", "That answer Prometheus, of the members it is told to scrape.", query(f"sum(up{HERE}) / count(up{HERE})"),
         "percentunit", ALL_OF_THEM, alert="IMGatewayServiceDown"),
    stat("Nodes Ready", "That take clients, of the same members.", query(f"sum({G}ready{HERE}) / count(up{HERE})"), "percentunit",
         ALL_OF_THEM, alert="IMGatewayNodeNotReady"),
    stat("Service Uptime", "Since each process started.", query(f"time() - process_start_time_seconds{PROCESS}", "{{instance}}"),
         "s", size=(12, 4), alert="IMGatewayCrashLooping"),
    graph("CPU Usage", "Of all cores that the process may use; the warning is at 80%.",
          [query(f"sum by (instance) (rate(process_cpu_seconds_total{PROCESS}[$__rate_interval]))"
                 f" / max by (instance) ({G}cpu_cores{HERE})", "{{instance}}")], "percentunit", [(0.8, RED)], alert="HighCPUUsage"),
    graph("CPU Seconds per Second", "1 is one core.",
          [query(f"rate(process_cpu_seconds_total{PROCESS}[$__rate_interval])", "{{instance}}")], "short"),
    graph("Memory Usage", "Of the limit of the cgroup or the machine; the warning is at 80%.",
          [query(f"max by (instance) (process_resident_memory_bytes{PROCESS}) / (max by (instance) ({G}memory_limit_bytes{HERE}) > 0)",
                 "{{instance}}")], "percentunit", [(0.8, RED)], alert="HighMemoryUsage"),
    graph("Resident Memory", "", [query(f"process_resident_memory_bytes{PROCESS}", "{{instance}}")], "bytes"),
    graph("Runtime Tasks", "Of the asynchronous runtime, beside one for each connection (what goroutines are elsewhere);"
          " the warning is at 10,000.",
          [query(f"max by (instance) ({G}runtime_tasks{HERE}) - max by (instance) ({G}active_connections{HERE})", "{{instance}}")],
          limits=[(10000, RED)], alert="TooManyRuntimeTasks"),
    graph("Network I/O", "Bytes of clients' sockets per second.",
          [query(rate(f"network_{way}_bytes_total", "instance"), "{{instance}} " + way) for way in ("receive", "transmit")], "Bps"),
    graph("Error Rate", "Failed messages and connection errors per second.",
          [query(FAILED, "messages"), query(rate("connection_errors_total"), "connections")], "ops", alert="HighMessageLossRate"),
    graph("Cache Hit Rate", "Of edge gateways' route lookups; the warning is below 70%. Without edge gateways: nothing.",
          [query(share(rate("cache_hits_total"), f"({rate('cache_hits_total')} + {rate('cache_misses_total')})"), "hits")],
          "percentunit", [(0.7, GREEN)], alert="LowCacheHitRate"),
    graph("Open Files", "Share of the most that may be open.",
          [query(f"process_open_fds{PROCESS} / process_max_fds{PROCESS}", "{{instance}}")], "percentunit", [(0.8, RED)]),
    stat("Certificates End In", "Of the node that is next, by port. Without TLS: nothing.",
         query(f"min by (port) ({G}certificate_expiry_timestamp_seconds{HERE}) - time()", "{{port}}"), "s",
         steps((2 * 86400, YELLOW), (14 * 86400, GREEN), base=RED), size=(6, 8), alert="IMGatewayCertificateExpiring"),
    graph("Telemetry Dropped", "Spans and lines per second that reached no collector, by reason, or no reader of stderr.",
          [query(rate("otlp_dropped_total", "signal, reason"), "{{signal}} {{reason}}"),
           query(rate("log_lines_dropped_total", "job"), "stderr")], "ops", size=(6, 8),
          alert="IMGatewayTelemetryDropped"),
    stat("Versions", "How many nodes run which.", query(f"count by (version, revision) ({G}build_info{HERE})", "{{version}} {{revision}}"), size=(4, 8)),
    table("Firing Alerts", "The watchdog is not among them: it always fires.",
          [query('ALERTS{alertstate="firing",alertname!="Watchdog"}', instant=True, fmt="table")], size=(8, 8)),
    panel("logs", "Errors", "The nodes' log: ERROR, and the last word of those that end by themselves, FATAL.",
          [log_query(f'{LOGS} | json | level=~"ERROR|FATAL"')], size=(24, 8),
          options={"showTime": True, "wrapLogMessage": True, "sortOrder": "Descending", "enableLogDetails": True,
                   "dedupStrategy": "none", "prettifyLogMessage": False, "showLogContextToggle": True, "showCommonLabels": False, "showLabels": False}),
])


def objective(slo, title, target, text):
    good = (f'1 - sum_over_time(slo:sli_bad:rate5m{{job="$job",slo="{slo}"}}[30d])'
            f' / (sum_over_time(slo:sli_total:rate5m{{job="$job",slo="{slo}"}}[30d]) > 0)')
    low = round(1 - 4 * (1 - target), 6)
    return gauge(title, text, query(good, instant=True), "percentunit", steps((target, GREEN), base=RED), low, 1, size=(8, 8),
                 alert="ErrorBudget50PercentConsumed")


CONSUMED = 'slo:error_budget:consumed_ratio{job="$job"}'
SLO = dashboard("im-gateway-slo", "Objectives over 30 days, their budgets, and how fast these burn.", [
    objective("availability", "Availability SLO", 0.9995, "Nodes that serve, of those that should. The objective is 99.95%."),
    objective("latency", "Latency SLO", 0.99, "Deliveries within 200 ms. The objective is 99%: P99 below 200 ms."),
    objective("success", "Success Rate SLO", 0.9999, "Messages that did not fail. The objective is 99.99%."),
    panel("bargauge", "Error Budget Consumption", "Of the whole budget of 30 days. Alerts at 50% and 80%.",
          [query(CONSUMED, "{{slo}}", instant=True)], "percentunit", steps((0.5, YELLOW), (0.8, RED)), "ErrorBudget80PercentConsumed",
          (12, 8), {"reduceOptions": reduce(), "displayMode": "gradient", "orientation": "horizontal", "showUnfilled": True,
           "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False, "calcs": []}, "namePlacement": "auto",
           "sizing": "auto", "valueMode": "color", "minVizHeight": 16, "minVizWidth": 8, "maxVizHeight": 300},
          defaults={"min": 0, "max": 1, "color": {"mode": "thresholds"}}),
    stat("Error Budget Remaining", "Of 21.6 minutes of all nodes down in 30 days.",
         query('(1 - slo:error_budget:consumed_ratio{job="$job",slo="availability"}) * 0.0005 * 30 * 86400', instant=True), "s",
         steps((259.2, YELLOW), (648, GREEN), base=RED), size=(6, 8)),
    stat("Budget Left by Objective", "", query(f"1 - {CONSUMED}", "{{slo}}", instant=True), "percentunit",
         steps((0.2, YELLOW), (0.5, GREEN), base=RED), size=(6, 8)),
    *[graph(f"SLO Burn Rate: {slo}", "1 spends the budget in exactly 30 days. Drawn: 1 and 3 warn, 6 and 14.4 page.",
            [query(f'slo:sli_error:ratio_rate{window}{{job="$job",slo="{slo}"}} / on (slo) group_left ()'
                   f' slo:error_budget:ratio{{slo="{slo}"}}', window) for window in ("5m", "1h", "6h", "1d", "3d")],
            limits=[(1, YELLOW), (3, ORANGE), (6, ORANGE), (14.4, RED)], size=(8, 9), alert="SLOFastBurn")
      for slo in ("availability", "latency", "success")],
    graph("Error Budget Consumption over Time", "", [query(CONSUMED, "{{slo}}")], "percentunit", [(0.5, YELLOW), (0.8, RED)],
          alert="ErrorBudget50PercentConsumed"),
    graph("P99 Latency", "Now; the objective is drawn.", [query(quantile(0.99, LATENCY), "P99")], "s", [(0.2, RED)],
          alert="HighMessageDeliveryLatency"),
], "now-24h", "1m")

VOTERS, VOTERS_UP = (G + "cluster_nodes" + here(role='="voter"', **up) for up in ({}, {"up": '="true"'}))
CLUSTER = dashboard("im-gateway-cluster", "Raft, the links between nodes, presence and inboxes.", [
    stat("Leader", "Nodes that lead; 1 in good order.", query(f"sum({G}raft_role" + here(role='="leader"') + ")"),
         thresholds=steps((1, GREEN), (2, ORANGE), base=RED), alert="IMGatewayNoLeader"),
    stat("Voters to Spare", "That are up beyond the majority, as the nodes that reach the quorum see it. With 0 the next one lost"
         " stops the cluster.",
         query(f"min({VOTERS_UP} and on (job, instance) {G}ready == 1) - floor(max(sum by (instance) ({VOTERS})) / 2) - 1"),
         thresholds=steps((0, ORANGE), (1, GREEN), base=RED), alert="IMGatewayQuorumAtRisk"),
    stat("Raft Term", "Grows by one or more with each election.", query(f"max({G}raft_term{HERE})")),
    stat("Quorum Age", "Since a quorum acknowledged the leader.", query(f"max({G}raft_quorum_age_seconds{HERE})"), "s",
         steps((1, ORANGE), (3, RED)), alert="IMGatewayNoLeader"),
    panel("state-timeline", "Roles", "Each node's role in Raft.",
          [query(f"max by (instance, role) ({G}raft_role{HERE}) == 1", "{{instance}} {{role}}")], size=(12, 8),
          options={"mergeValues": True, "showValue": "never", "alignValue": "left", "rowHeight": 0.9,
                   "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
                   "tooltip": {"mode": "single", "sort": "none"}}, custom={"lineWidth": 0, "fillOpacity": 70}),
    graph("Elections", "Terms begun in five minutes.", [query(f"max(delta({G}raft_term{HERE}[5m]))", "terms")]),
    graph("Log", "Entries committed per second, by each node's account.",
          [query(f'rate({G}raft_index' + here(kind='="committed"') + '[$__rate_interval])', "{{instance}}")], "ops"),
    graph("Presence Staleness", "How old what a node knows of who is connected may be: since the last word of a quorum.",
          [query(f"max by (instance) ({G}presence_staleness_seconds{HERE})", "{{instance}}")], "s", [(30, RED)], size=(8, 8)),
    graph("Entries Behind", "That a node has not applied and another has; the alert is at 30 seconds' worth.",
          [query(f"max by (job) ({G}raft_index" + '{job="$job",kind="applied"})' + f" - on (job) group_right () "
                 f"max by (job, instance) ({G}raft_index" + here(kind='="applied"') + ")", "{{instance}}")], size=(8, 8),
          alert="IMGatewayPresenceStale"),
    graph("Peer Links", "By state, over all nodes.", [query(f"sum by (state) ({G}peer_links{HERE})", "{{state}}")],
          alert="IMGatewayPeerLinkDown"),
    graph("Members", "By role and whether they are up.",
          [query(f"max by (role, up) ({G}cluster_nodes{HERE}) > 0", "{{role}} up={{up}}")], alert="IMGatewayQuorumAtRisk"),
    graph("Not Ready", "Nodes, by reason.", [query(f"sum by (reason) ({G}not_ready{HERE})", "{{reason}}")],
          alert="IMGatewayNodeNotReady"),
    graph("Draining", "Clients that a draining node has still to move.",
          [query(f"{G}draining_connections{HERE}", "{{instance}}")], alert="IMGatewayDraining"),
    graph("Inbox Messages", "That wait for devices; the warning is at 10,000.",
          [query(f"max({G}inbox" + here(of='="messages"') + ")", "messages")], limits=[(10000, RED)], alert="IMGatewayInboxGrowing"),
    graph("Inbox Bytes", "Waiting, and the part of it in memory.",
          [query(f"max by (of) ({G}inbox" + here(of='=~"bytes|memory_bytes"') + ")", "{{of}}")], "bytes"),
    graph("Users and Devices", "In the replicated state.", [query(f"max by (of) ({G}state{HERE})", "{{of}}")]),
    graph("Sessions by Node", "Presence is what is registered.",
          [query(f"{G}sessions" + here(of='="node"'), "{{instance}}")]),
])

PROPOSAL = G + "proposal_latency_seconds"
STORAGE = dashboard("im-gateway-storage", "How messages become durable: batches, the log, checkpoints, and the disks beneath.", [
    graph("Proposal Latency", "From cutting a batch to applying it; the alert is at 1 s (P99).",
          [query(quantile(q, PROPOSAL), f"P{int(q * 100)}") for q in (0.5, 0.99)], "s", [(1, RED)], alert="IMGatewaySlowProposals"),
    graph("Disk Sync", "To make the log's records durable, P90 by node; the alert is at 100 ms.",
          [query(f"histogram_quantile(0.9, sum by (instance, le) (rate({G}disk_sync_seconds_bucket{HERE}[$__rate_interval])))",
                 "{{instance}}")], "s", [(0.1, RED)], alert="IMGatewayDiskSlow"),
    graph("Operations in a Batch", "On average.",
          [query(f"sum by (instance) (rate({G}proposal_operations_sum{HERE}[$__rate_interval]))"
                 f" / (sum by (instance) (rate({G}proposal_operations_count{HERE}[$__rate_interval])) > 0)", "{{instance}}")]),
    graph("Disk Errors", "Failed operations on the data folder, per second. One on the log ends the node before it is scraped: the"
          " journal has it.", [query(rate("disk_errors_total", "instance, operation"), "{{instance}} {{operation}}")], "ops",
          alert="IMGatewayDiskFailing"),
    heatmap("Checkpoint Duration", "Writing a checkpoint, beside everything else.", G + "checkpoint_seconds"),
    graph("Since the Last Checkpoint", "Entries; one is taken every 10,000, the alert is at 40,000.",
          [query(f"max by (instance) ({G}raft_index" + here(kind='="applied"') + f") - max by (instance) ({G}raft_index"
                 + here(kind='="checkpoint"') + ")", "{{instance}}")], limits=[(40000, RED)], alert="IMGatewayDiskFailing"),
    graph("Free Space", "Of the file system of the data folder; the alert is at 10%.",
          [query(f"min by (instance) ({G}data_free_bytes{HERE}) / (max by (instance) ({G}data_size_bytes{HERE}) > 0)",
                 "{{instance}}")], "percentunit", [(0.1, RED)], alert="IMGatewayDiskFilling"),
    graph("Free Bytes", "And what is left in a day, at the rate of six hours.",
          [query(f"min by (instance) ({G}data_free_bytes{HERE})", "{{instance}}"),
           query(f"min by (instance) (predict_linear({G}data_free_bytes{HERE}[6h], 86400))", "{{instance}} in a day")], "bytes",
          alert="IMGatewayDiskFilling"),
])

ALL = [CONNECTIONS, MESSAGES, HEALTH, SLO, CLUSTER, STORAGE]
