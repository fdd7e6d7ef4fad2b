"""The way of a log line, as far as it can be held together without running it: what the unit writes the agent reads,
where the agent sends the central collector listens, and each pipeline has what it names."""

import configparser
import json
import re
from datetime import datetime
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent.parent
UNIT = ROOT / "deploy/im-gateway.service"
AGENT = ROOT / "deploy/otel-agent.yaml"
CENTRAL = ROOT / "deploy/docker/otel-collector-config.yaml"
# As docs/logging.md has it.
LINE = {"timestamp": "2026-10-01T10:00:00.123Z", "level": "ERROR", "service": "im-gateway-service", "trace_id": "",
        "span_id": "", "message": "the disk failed", "event": "database_error", "operation": "sync", "target": "x"}


def check(fact, what):
    if not fact:
        raise SystemExit(f"logs: {what}")


def load(path):
    return yaml.safe_load(path.read_text())


def pipelines(path):
    """Names that a pipeline uses are defined, and what is defined is used."""
    config = load(path)
    for kind in ("receivers", "processors", "exporters"):
        used = {name for pipeline in config["service"]["pipelines"].values() for name in pipeline[kind]}
        check(used == set(config[kind]), f"{path.name}: {kind} used {used}, defined {set(config[kind])}")
    check(set(config["service"]["extensions"]) == set(config["extensions"]), f"{path.name}: extensions")
    return config


def main():
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str
    unit.read(UNIT)
    # By default stderr goes to the journal.
    check(unit["Service"].get("StandardError", "journal") == "journal", "the unit's stderr does not go to the journal")
    agent, central = pipelines(AGENT), pipelines(CENTRAL)
    journal = agent["receivers"]["journald"]
    check(journal["units"] == [UNIT.stem], f"the agent reads {journal['units']}, the unit is {UNIT.stem}")
    check(journal["storage"] in agent["extensions"], "the agent forgets its place in the journal")
    steps = {step["type"]: step for step in journal["operators"] if step["type"] != "add"}
    parser = steps["json_parser"]
    check(parser["parse_from"] == steps["move"]["from"] == "body.MESSAGE", "a journal's line is in MESSAGE")
    starts = re.fullmatch(r'body\.MESSAGE matches "(.*)"', parser["if"]).group(1).replace("\\\\", "\\")
    check(re.match(starts, json.dumps(LINE)) and not re.match(starts, "thread 'main' panicked"), f"{starts} tells no JSON")
    for part in ("timestamp", "severity"):
        check(parser[part]["parse_from"].removeprefix("attributes.") in LINE, f"no line has {parser[part]['parse_from']}")
    layout = parser["timestamp"]["layout"]
    for go, python in {"2006": "%Y", "01": "%m", "02": "%d", "15": "%H", "04": "%M", "05": "%S", ".000": ".%f"}.items():
        layout = layout.replace(go, python, 1)
    datetime.strptime(LINE["timestamp"], layout)
    check({field.removeprefix("attributes.") for field in steps["retain"]["fields"]} <= set(LINE), "fields that no line has")
    name = next(step["value"] for step in journal["operators"] if step.get("field") == 'resource["service.name"]')
    queries = (ROOT / "docs/logging.md").read_text() + (ROOT / "dashboards/boards.py").read_text()
    asked = set(re.findall(r'service_name="([^"]*)"', queries))
    check(asked == {name}, f"queries ask for {asked}, lines come from {name}")
    port = agent["exporters"]["otlp"]["endpoint"].rpartition(":")[2]
    listens = central["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"].rpartition(":")[2]
    check(port == listens, f"the agent sends to {port}, the collector listens at {listens}")
    print("  unit, journal, agent, collector and Loki's queries fit together")


if __name__ == "__main__":
    main()
