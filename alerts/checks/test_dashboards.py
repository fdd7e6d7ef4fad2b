"""Dashboards: that they are what their generator writes, that their JSON has the form Grafana reads, that
links lead somewhere; and, given a gateway binary, that every expression returns data from a real
Prometheus which watched three nodes under load, one of which was killed and came back."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
from pathlib import Path

import yaml

from daemon import free_port, get, running, until

ROOT = Path(__file__).parent.parent.parent
JOB = "im-gateway-service"
FOLDER = ROOT / "dashboards"

# What rightly shows nothing in the run below, and why.
EMPTY = {
    "Cache Hit Rate": "there is no edge gateway",
    "Firing Alerts": "nothing has stood long enough",
    "Alert": "nothing has stood long enough",
}

# And what may show nothing as long as the nodes below do not export this at all.
EMPTY_WITHOUT = {
    "Certificates End In": "im_gateway_certificate_expiry_timestamp_seconds",
    "Free Space": "im_gateway_data_free_bytes",
    "Free Bytes": "im_gateway_data_free_bytes",
}

PANELS = {"timeseries", "gauge", "stat", "bargauge", "table", "logs", "heatmap", "state-timeline"}
UNITS = {"short", "cps", "mps", "ops", "Bps", "bytes", "s", "percentunit"}
# Grafana's dashboard schema: what must be there, and of which type.
DASHBOARD = {"uid": str, "title": str, "description": str, "tags": list, "editable": bool, "graphTooltip": int,
             "schemaVersion": int, "version": int, "timezone": str, "refresh": str, "time": dict, "timepicker": dict,
             "fiscalYearStartMonth": int, "liveNow": bool, "links": list, "annotations": dict, "templating": dict,
             "panels": list}
PANEL = {"id": int, "type": str, "title": str, "description": str, "datasource": dict, "gridPos": dict, "targets": list,
         "options": dict, "fieldConfig": dict}


def check(fact, what):
    if not fact:
        raise SystemExit(f"dashboards: {what}")


def boards():
    return [json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))]


def form(node, fields, what, optional=()):
    for name, kind in fields.items():
        check(type(node.get(name)) is kind, f"{what}: {name} is no {kind.__name__}")
    unknown = set(node) - set(fields) - set(optional)
    check(not unknown, f"{what}: unknown fields {unknown}")


def schema(board):
    form(board, DASHBOARD, board.get("uid"))
    ids, area = set(), set()
    for panel in board["panels"]:
        what = f"{board['uid']}: {panel.get('title')}"
        form(panel, PANEL, what, ["links"])
        check(panel["type"] in PANELS, f"{what}: no panel type {panel['type']}")
        check(panel["fieldConfig"]["defaults"]["unit"] in UNITS, f"{what}: no unit {panel['fieldConfig']['defaults']['unit']}")
        check(panel["id"] not in ids, f"{what}: id {panel['id']} is taken")
        ids.add(panel["id"])
        at = panel["gridPos"]
        check(set(at) == {"x", "y", "w", "h"} and at["x"] + at["w"] <= 24, f"{what}: place {at}")
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        check(not cells & area, f"{what}: overlaps another panel")
        area |= cells
        colours = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        values = [step["value"] for step in colours]
        check(values[0] is None and values[1:] == sorted(values[1:]), f"{what}: thresholds {values}")
        letters = [target["refId"] for target in panel["targets"]]
        check(len(set(letters)) == len(letters), f"{what}: refIds {letters}")
        for target in panel["targets"]:
            check(target["datasource"]["type"] in ("prometheus", "loki") and target["expr"], f"{what}: target {target}")
    check(len(board["panels"]) < 20, f"{board['uid']}: {len(board['panels'])} panels are too many to read")
    names = {variable["name"] for variable in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]+)\b", json.dumps(board))) - {"__rate_interval", "__range", "__interval", "__all"}
    check(used <= names, f"{board['uid']}: unknown variables {used - names}")


def links():
    """Alerts and panels lead to runbooks and dashboards that exist."""
    runbooks = (ROOT / "docs/runbooks.md").read_text()
    anchors = {heading.strip().lower().replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", runbooks, re.M)}
    uids = {board["uid"] for board in boards()}
    rules = [rule for path in [*sorted((ROOT / "alerts/rules").glob("*.yml")), ROOT / "alerts/watchdog.yml"]
             for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"] if "alert" in rule]
    for rule in rules:
        check(set(rule["annotations"]) == {"summary", "description", "runbook_url", "dashboard"}, f"{rule['alert']}: annotations")
        check(rule["annotations"]["runbook_url"].split("#")[1] == rule["alert"].lower(), f"{rule['alert']}: whose runbook?")
        check(rule["annotations"]["dashboard"].split("/d/")[1] in uids, f"{rule['alert']}: no such dashboard")
    wanted = {rule["alert"].lower() for rule in rules}
    for board in boards():
        wanted |= {link["url"].split("#")[1] for panel in board["panels"] for link in panel.get("links", [])}
    check(wanted <= anchors, f"docs/runbooks.md has no {', '.join(sorted(wanted - anchors))}")
    return len(rules), len(wanted)


def expressions():
    """(dashboard, title, PromQL, whether instant)."""
    for board in boards():
        for panel in board["panels"]:
            for target in panel["targets"]:
                if target["datasource"]["type"] == "prometheus":
                    yield board["uid"], panel["title"], target["expr"], target["instant"]
        for annotation in board["annotations"]["list"]:
            yield board["uid"], annotation["name"], annotation["expr"], False


def concrete(expression):
    for name, value in {"$__rate_interval": "15s", "$__range": "2m", "$job": JOB, "$instance": ".*"}.items():
        expression = expression.replace(name, value)
    return expression


class Prometheus:
    def __init__(self, url):
        self.url = url

    def ask(self, path, **arguments):
        return get(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(arguments, doseq=True)}")["data"]

    def returns(self, expression, instant):
        """Numbers came back, and not only NaN."""
        now = time.time()
        if instant:
            result = self.ask("query", query=expression)["result"]
            return any(one["value"][1] != "NaN" for one in result)
        result = self.ask("query_range", query=expression, start=now - 240, end=now, step=2)["result"]
        return any(value != "NaN" for one in result for _, value in one["values"])


def configuration(folder, ports):
    """The shipped configuration, aimed at this machine and quicker."""
    config = yaml.safe_load((ROOT / "deploy/docker/prometheus.yml").read_text())
    config["global"] |= {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(ROOT / "alerts/rules/*.yml"), str(ROOT / "alerts/watchdog.yml")]
    del config["alerting"]
    jobs = [job for job in config["scrape_configs"] if job["job_name"] == JOB]
    jobs[0]["static_configs"] = [{"targets": [f"127.0.0.1:{port}" for port in ports]}]
    config["scrape_configs"] = jobs
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


def live(binary):
    with tempfile.TemporaryDirectory() as name:
        folder, first, web = Path(name), free_port(), free_port()
        ports = [first, first + 1, first + 2]
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        up = [binary, "up", "--nodes", "3", "--http-port", str(first), "--data", str(folder / "up"), "--restart"]
        prometheus = ["prometheus", f"--config.file={configuration(folder, ports)}", f"--storage.tsdb.path={folder}/tsdb",
                      f"--web.listen-address=127.0.0.1:{web}", "--log.level=warn"]
        bench = [binary, "bench", "--url", ",".join(urls), "--pairs", "20", "--rate", "100", "--duration", "600s"]
        with running(up, folder / "up.log", urls[2] + "/ready", 120), \
             running(prometheus, folder / "prometheus.log", f"http://127.0.0.1:{web}/-/ready"), \
             running(bench, folder / "bench.log"):
            watch(Prometheus(f"http://127.0.0.1:{web}"), folder / "up.log", binary, ",".join(urls))


def value(prometheus, expression):
    result = prometheus.ask("query", query=expression)["result"]
    return float(result[0]["value"][1]) if result else None


def watch(prometheus, log, binary, urls):
    until(lambda: value(prometheus, "sum(im_gateway_ready)") == 3, "three nodes are ready")
    # Some who come and go.
    subprocess.run([binary, "bench", "--url", urls, "--pairs", "20", "--rate", "100", "--warmup", "0s", "--duration", "2s"],
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: (value(prometheus, "sum(rate(im_gateway_messages_delivered_total[5s]))") or 0) > 50, "messages flow")
    began = value(prometheus, "max(process_start_time_seconds)")
    victim = int(re.search(r"^2\s+\S+\s+(\d+)", log.read_text(), re.M).group(1))
    os.kill(victim, signal.SIGKILL)
    until(lambda: (value(prometheus, "max(process_start_time_seconds)") or 0) > began, "the killed node has come back")
    until(lambda: value(prometheus, "sum(im_gateway_ready)") == 3, "three nodes are ready again")

    excused = EMPTY | {title: f"there is no {metric}" for title, metric in EMPTY_WITHOUT.items()
                       if value(prometheus, f"count({metric})") is None}
    silent = {(board, title, concrete(expression), instant) for board, title, expression, instant in expressions()}
    total = len(silent)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        silent = {one for one in silent if not prometheus.returns(one[2], one[3])}
        if all(title in excused for _, title, _, _ in silent):
            break
        time.sleep(1)
    for board, title, expression, _ in sorted(silent):
        print(f"  no data: {board}: {title}" + (f" ({excused[title]})" if title in excused else f": {expression}"))
    check(all(title in excused for _, title, _, _ in silent), "expressions that return nothing")
    for board in boards():
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                match, label = re.fullmatch(r"label_values\((.*), (\w+)\)", concrete(variable["definition"])).groups()
                found = prometheus.ask(f"label/{label}/values", **{"match[]": match})
                check(found, f"{board['uid']}: the variable {variable['name']} has no values")
    rules = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
    broken = [f"{rule['name']}: {rule.get('lastError')}" for rule in rules if rule["health"] == "err"]
    check(not broken, f"rules that fail: {broken}")
    print(f"  {total - len(silent)} of {total} expressions returned data; {len(rules)} rules evaluate")


def main():
    sys.dont_write_bytecode = True
    subprocess.run([sys.executable, "-B", str(FOLDER / "generate.py"), "--check"], check=True)
    for board in boards():
        schema(board)
    rules, runbooks = links()
    panels = sum(len(board["panels"]) for board in boards())
    print(f"  {len(boards())} dashboards with {panels} panels; {rules} alert rules; {runbooks} runbooks that are linked to")
    if len(sys.argv) > 1:
        live(sys.argv[1])


if __name__ == "__main__":
    main()
