"""Building blocks of Grafana dashboards."""

PROMETHEUS = {"type": "prometheus", "uid": "${datasource}"}
LOKI = {"type": "loki", "uid": "${logs}"}
RUNBOOKS = "https://wiki.example.com/runbooks/im-gateway"
DASHBOARDS = {
    "im-gateway-connections": "IM Gateway Connections",
    "im-gateway-messages": "IM Gateway Messages",
    "im-gateway-health": "IM Gateway Health",
    "im-gateway-slo": "IM Gateway SLO",
    "im-gateway-cluster": "IM Gateway Cluster",
    "im-gateway-storage": "IM Gateway Storage",
}
GREEN, YELLOW, ORANGE, RED = "green", "yellow", "orange", "red"


def link(title, url, icon, outside):
    """Inside, the reader keeps the time and what was chosen."""
    return {"type": "link", "title": title, "url": url, "icon": icon, "targetBlank": outside, "asDropdown": False,
            "includeVars": not outside, "keepTime": not outside, "tags": [], "tooltip": ""}


def query(expr, legend="", loki=False, instant=False, fmt="time_series"):
    target = {"refId": "A", "datasource": LOKI if loki else PROMETHEUS, "expr": expr, "legendFormat": legend}
    if loki:
        return target | {"queryType": "instant" if instant else "range"}
    return target | {"instant": instant, "range": not instant, "format": fmt, "editorMode": "code"}


def log_query(expr, legend="", instant=False):
    return query(expr, legend, loki=True, instant=instant)


def steps(*pairs, base=GREEN):
    return {"mode": "absolute", "steps": [{"color": base, "value": None}]
            + [{"color": color, "value": value} for value, color in pairs]}


def panel(kind, title, description, targets, unit="short", thresholds=None, alert=None, size=(12, 8), options=None,
          custom=None, defaults=None):
    """`alert` links to its runbook; `size` is width of 24 and height."""
    for letter, target in zip("ABCDEFGH", targets):
        target["refId"] = letter
    body = {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": targets[0]["datasource"],
        "gridPos": {"w": size[0], "h": size[1]},
        "targets": targets,
        "options": options or {},
        "fieldConfig": {
            "defaults": {"unit": unit, "thresholds": thresholds or steps(), "color": {"mode": "palette-classic"},
                         "custom": custom or {}} | (defaults or {}),
            "overrides": [],
        },
    }
    if alert:
        body["links"] = [link(f"Runbook: {alert}", f"{RUNBOOKS}#{alert.lower()}", "doc", True)]
    return body


def graph(title, description, targets, unit="short", limits=(), **more):
    """Lines over time; `limits` are drawn: (value, colour)."""
    custom = {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 8, "showPoints": "never", "spanNulls": False,
              "thresholdsStyle": {"mode": "dashed" if limits else "off"}}
    options = {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
               "tooltip": {"mode": "multi", "sort": "desc"}}
    return panel("timeseries", title, description, targets, unit, steps(*limits, base="transparent"), custom=custom,
                 options=options, **more)


def reduce(calc="lastNotNull"):
    return {"calcs": [calc], "fields": "", "values": False}


def gauge(title, description, target, unit, thresholds, low, high, **more):
    return panel("gauge", title, description, [target], unit, thresholds, defaults={"min": low, "max": high,
                 "color": {"mode": "thresholds"}}, size=more.pop("size", (6, 8)),
                 options={"reduceOptions": reduce(), "showThresholdLabels": True, "showThresholdMarkers": True,
                          "orientation": "auto", "sizing": "auto", "minVizHeight": 75, "minVizWidth": 75}, **more)


def stat(title, description, targets, unit="short", thresholds=None, **more):
    targets = targets if isinstance(targets, list) else [targets]
    return panel("stat", title, description, targets, unit, thresholds, defaults={"color": {"mode": "thresholds"}},
                 size=more.pop("size", (6, 4)), options={"reduceOptions": reduce(), "colorMode": "value",
                 "graphMode": "area", "textMode": "auto", "orientation": "auto", "justifyMode": "auto",
                 "percentChangeColorMode": "standard", "showPercentChange": False, "wideLayout": True}, **more)


def table(title, description, targets, **more):
    return panel("table", title, description, targets, options={"frameIndex": 0, "showHeader": True, "cellHeight": "sm",
                 "footer": {"show": False, "reducer": ["sum"], "countRows": False}}, **more)


def variable(name, label, expr):
    return {"type": "query", "name": name, "label": label, "datasource": PROMETHEUS, "query": {"query": expr,
            "refId": "variable"}, "definition": expr, "refresh": 2, "sort": 1, "multi": name != "job",
            "includeAll": name != "job", "allValue": ".*", "hide": 0, "skipUrlSync": False,
            "current": {"text": "All", "value": "$__all"} if name != "job" else
            {"text": "im-gateway-service", "value": "im-gateway-service"}, "options": [], "regex": ""}


def source(name, label, kind, hide=0):
    return {"type": "datasource", "name": name, "label": label, "query": kind, "hide": hide, "refresh": 1, "regex": "",
            "multi": False, "includeAll": False, "options": [], "current": {"text": kind.title(), "value": kind}, "skipUrlSync": False}


def annotation(name, expr, color, title):
    return {"name": name, "datasource": PROMETHEUS, "enable": True, "hide": False, "iconColor": color, "expr": expr,
            "step": "30s", "titleFormat": name, "textFormat": title, "useValueForTime": False}


ANNOTATIONS = [
    # A build that nobody ran two minutes ago.
    annotation("Deploy", 'max by (job, version, revision) (im_gateway_build_info{job="$job"})'
               ' unless max by (job, version, revision) (im_gateway_build_info{job="$job"} offset 2m)', "blue", "{{version}} {{revision}}"),
    annotation("Start", 'changes(process_start_time_seconds{job="$job"}[1m]) > 0', "purple", "{{instance}}"),
    annotation("Alert", 'ALERTS{alertstate="firing",job="$job",severity=~"critical|P1"}', "red", "{{alertname}} {{instance}}"),
]


def dashboard(uid, description, panels, time_from="now-6h", refresh="30s"):
    """Panels go left to right, in rows of 24."""
    x = y = row = 0
    for number, one in enumerate(panels, 1):
        at = one["gridPos"]
        if x + at["w"] > 24:
            x, y, row = 0, y + row, 0
        one["id"], one["gridPos"] = number, at | {"x": x, "y": y}
        x, row = x + at["w"], max(row, at["h"])
    links = [link("Runbooks", RUNBOOKS, "doc", True)]
    links += [link(title, f"/d/{other}", "dashboard", False) for other, title in DASHBOARDS.items() if other != uid]
    return {
        "uid": uid, "title": DASHBOARDS[uid], "description": description, "tags": ["im-gateway"], "editable": True,
        "graphTooltip": 1, "schemaVersion": 39, "version": 1, "timezone": "utc", "refresh": refresh,
        "time": {"from": time_from, "to": "now"}, "timepicker": {}, "fiscalYearStartMonth": 0, "liveNow": False,
        "links": links, "annotations": {"list": ANNOTATIONS},
        "templating": {"list": [
            source("datasource", "Metrics", "prometheus"), source("logs", "Logs", "loki"),
            variable("job", "Service", "label_values(im_gateway_build_info, job)"),
            variable("instance", "Node", 'label_values(im_gateway_build_info{job="$job"}, instance)'),
        ]},
        "panels": panels,
    }
