"""What is deployed: that compose.yaml mounts what there is and starts each program with it, that local drills have a
valid monitoring, that going live replaces every example, and that docs/alerting.md says what there is."""

import os
import re
import shutil
import subprocess
import tempfile
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from daemon import free_port, get, running

ROOT = Path(__file__).parent.parent.parent
DOCKER = ROOT / "deploy/docker"
LOCAL = ROOT / "deploy/local"
DOCS = ROOT / "docs/alerting.md"
RULES = [*sorted((ROOT / "alerts/rules").glob("*.yml")), ROOT / "alerts/watchdog.yml"]
ENVIRONMENTS = sorted((DOCKER / "environments").glob("*.env"))
# In `docker compose` and in the files that it mounts.
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def check(fact, what):
    if not fact:
        raise SystemExit(f"deploy: {what}")


def load(path):
    return yaml.safe_load(path.read_text())


def environment(path):
    return dict(line.split("=", 1) for line in path.read_text().splitlines() if line and not line.startswith("#"))


def expanded(text, values):
    """With `${NAME}`, `${NAME:-default}` and `${NAME:?complaint}` replaced, as Compose does."""
    def one(match):
        name, how, more = match.groups()
        check(name in values or how == "-", f"no environment has {name}")
        return values.get(name, more)
    return VARIABLE.sub(one, text)


def mounts(name, service, volumes):
    """Where in the container there is something of ours, or a volume; sources must exist, but for secrets."""
    targets = []
    for mount in service.get("volumes", []):
        if isinstance(mount, str):
            source, target, *mode = mount.split(":")
            check(source in volumes or mode == ["ro"], f"{name} may write to {source}")
            check(source in volumes or (DOCKER / source).exists(), f"{name}: there is no {source}")
        else:
            source, target = mount["source"], mount["target"]
            check(source.startswith("./secrets/") and mount["read_only"] and not mount["bind"]["create_host_path"],
                  f"{name}: {source} is no folder of secrets")
        targets.append(target)
    return targets


def paths_of(text):
    """Absolute paths that a flag or a configuration names."""
    return re.findall(r"(?<![\w./:}])/(?:[\w.*-]+/)*[\w.*-]+", text)


def compose():
    text = (DOCKER / "compose.yaml").read_text()
    services = None
    for path in ENVIRONMENTS:
        config = yaml.safe_load(expanded(text, environment(path)))
        services, volumes = config["services"], config["volumes"]
        for name, service in services.items():
            check(re.search(r":v?\d+\.\d+\.\d+$", service["image"]), f"{name}: {service['image']} is no fixed version")
            check(all(port.startswith("127.0.0.1:") for port in service["ports"]), f"{name}: ports {service['ports']}")
            targets = mounts(name, service, volumes)
            inside = lambda path: any(path == target or path.startswith(target + "/") for target in targets)
            flags = [flag.partition("=")[2] for flag in service.get("command", []) if "://" not in flag]
            named = flags + [value for key, value in service.get("environment", {}).items() if key.startswith("GF_")]
            for value in named:
                for path in paths_of(value):
                    check(inside(path), f"{name} is started with {path}, which is not mounted")
            for flag in service.get("command", []):
                check(flag.startswith("-"), f"{name}: {flag} is no flag")
            configs = [DOCKER / mount.split(":")[0] for mount in service.get("volumes", [])
                       if isinstance(mount, str) and mount.startswith("./")]
            files = [file for one in configs for file in ([one] if one.is_file() else sorted(one.rglob("*.yml")))]
            for file in files:
                for path in paths_of(re.sub(r"#.*|\w+://\S+", "", file.read_text())):
                    check(inside(path) or path == "/metrics", f"{file.name} names {path}, which {name} has not mounted")
        starts = {name: " ".join(service.get("command", [])) for name, service in services.items()}
        for name, flag in {"prometheus": "--config.file=", "alertmanager": "--config.file=", "loki": "-config.file=",
                           "otel-collector": "--config="}.items():
            check(flag in starts[name], f"{name} is not told its configuration")
        check("retention.time=35d" in starts["prometheus"], "objectives look back 30 days")
    return services


def each_other(services):
    """Programs know each other by their services' names, and ask where the other listens."""
    listens = {"prometheus": {9090}, "alertmanager": {9093}, "loki": {3100}, "otel-collector": {4317, 4318, 8888, 13133},
               "jaeger": {4317, 4318, 16686}, "grafana": {3000}}
    check(set(listens) == set(services), f"services: {set(services)}")
    prometheus = load(DOCKER / "prometheus.yml")
    ours = [job for job in prometheus["scrape_configs"] if job["job_name"] not in ("im-gateway-service", "otel-agent")]
    scraped = [target for job in ours for one in job["static_configs"] for target in one["targets"]]
    told = [target for one in prometheus["alerting"]["alertmanagers"][0]["static_configs"] for target in one["targets"]]
    sources = [source["url"] for source in load(DOCKER / "grafana/provisioning/datasources/im-gateway.yml")["datasources"]]
    exporters = [one["endpoint"] for one in load(DOCKER / "otel-collector-config.yaml")["exporters"].values()]
    count = 0
    for address in scraped + told + sources + exporters:
        url = urlsplit(address if "://" in address else f"//{address}")
        if url.hostname == "localhost":
            continue
        check(url.port in listens.get(url.hostname, ()), f"nobody listens at {address}")
        count += 1
    for name, service in services.items():
        inside = {int(port.rpartition(":")[2]) for port in service["ports"]}
        check(inside <= listens[name], f"{name} publishes {inside}")
    return count


def loki_and_environments():
    names = set(VARIABLE.findall((DOCKER / "loki-config.yaml").read_text() + (DOCKER / "prometheus.yml").read_text()))
    for path in ENVIRONMENTS:
        values = environment(path)
        check(values["ENVIRONMENT"] == path.stem, f"{path.name} is {values['ENVIRONMENT']}")
        check({name for name, *_ in names} <= set(values), f"{path.name} has not all of {names}")


def tell_environments():
    """In a real Prometheus: the label is what the environment says."""
    if not shutil.which("prometheus"):
        return
    with tempfile.TemporaryDirectory() as folder:
        url = f"http://127.0.0.1:{free_port()}"
        command = ["env", "ENVIRONMENT=staging", "prometheus", f"--config.file={DOCKER / 'prometheus.yml'}",
                   f"--storage.tsdb.path={folder}/tsdb", f"--web.listen-address={url.removeprefix('http://')}",
                   "--enable-feature=expand-external-labels"]
        with running(command, Path(folder) / "log", url + "/-/ready"):
            config = yaml.safe_load(get(url + "/api/v1/status/config")["data"]["yaml"])
    check(config["global"]["external_labels"] == {"environment": "staging"}, f"labels: {config['global']['external_labels']}")


def local():
    """What drills by hand start."""
    shipped, here = load(DOCKER / "prometheus.yml"), load(LOCAL / "prometheus.yml")
    for name in ("scrape_interval", "evaluation_interval"):
        check(here["global"][name] == shipped["global"][name], f"local drills have another {name}")
    jobs = {job["job_name"]: job["static_configs"][0]["targets"] for job in here["scrape_configs"]}
    check(jobs["im-gateway-service"] == [f"127.0.0.1:{port}" for port in (8080, 8081, 8082)], f"nodes: {jobs}")
    check(all(target.startswith("127.0.0.1:") for targets in jobs.values() for target in targets), f"targets: {jobs}")
    found = {path.resolve() for pattern in here["rule_files"] for path in LOCAL.glob(pattern)}
    check(found == {path.resolve() for path in RULES}, f"rules: {found}")
    starts = re.search(r"## Drills by hand\n.*?```sh\n(.*?)```", (ROOT / "docs/runbooks.md").read_text(), re.S).group(1)
    for file in ("prometheus.yml", "alertmanager.yml"):
        check(f"--config.file=deploy/local/{file}" in starts, f"the runbook does not start {file}")
    addresses = re.findall(r"--web.listen-address=(\S+)", starts)
    check(addresses == [jobs["prometheus"][0], jobs["alertmanager"][0]], f"the runbook listens at {addresses}")
    for command in (["promtool", "check", "config", str(LOCAL / "prometheus.yml")],
                    ["amtool", "check-config", str(LOCAL / "alertmanager.yml")]):
        if shutil.which(command[0]):
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def going_live():
    """The commands of deploy/README.md, done to a copy: no example is left, and all is still valid. They do nothing
    where they were done before."""
    text = (ROOT / "deploy/README.md").read_text()
    commands = re.search(r"## Before going live\n.*?```sh\n(.*?)```", text, re.S).group(1)
    look = next(line for line in text.splitlines() if line.startswith("grep -rn ")).partition("    #")[0]
    with tempfile.TemporaryDirectory() as folder:
        for name in ("alerts", "dashboards", "deploy"):
            shutil.copytree(ROOT / name, Path(folder) / name, ignore=shutil.ignore_patterns("__pycache__", "secrets"))
        shell = lambda what: subprocess.run(["bash", "-euc", what], cwd=folder, capture_output=True, text=True,
                                            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"})
        done = shell(commands)
        check(done.returncode == 0, f"going live: {done.stderr}")
        left = shell(look).stdout
        check(not left, f"still an example:\n{left}")
        check(shell("dashboards/generate.py --check").returncode == 0, "dashboards are not as they were generated")
        nodes = load(Path(folder) / "deploy/docker/prometheus.yml")["scrape_configs"][0]["static_configs"][0]["targets"]
        check(not any("im-gateway-" in node for node in nodes), f"nodes: {nodes}")
        for tool, command in (("promtool", "promtool check rules alerts/rules/*.yml alerts/watchdog.yml"),
                              ("amtool", "amtool check-config deploy/docker/alertmanager-config.yml")):
            if shutil.which(tool):
                check(shell(command).returncode == 0, f"after going live {command} fails")


def what_the_page_says():
    """docs/alerting.md has a row for each alert, with its severity and its `for`, and knows which no scenario rings."""
    text = DOCS.read_text()
    rules = [rule for path in RULES for group in load(path)["groups"] for rule in group["rules"] if "alert" in rule]
    table = re.search(r"## Alerts\n\n(.*?)\n\n", text, re.S).group(1)
    rows = {alert: [cell.strip() for cell in line.strip("|").split("|")]
            for line in table.splitlines() for alert in re.findall(r"[A-Z]\w+", line.split("|")[1])}
    for rule in rules:
        row = rows.get(rule["alert"])
        check(row, f"docs/alerting.md has no row of {rule['alert']}")
        severity, wait = rule["labels"]["severity"], rule.get("for")
        said = {"–": None}.get(row[3], row[3].replace(" min", "m").replace(" h", "h"))
        check(row[1] == {"none": "–"}.get(severity, severity), f"docs/alerting.md: {rule['alert']} is {severity}")
        check(said == wait or rule["alert"] == "Watchdog", f"docs/alerting.md: {rule['alert']} waits {wait}")
    alerts = {rule["alert"] for rule in rules}
    rung = {alert for path in (ROOT / "sim/scenarios").glob("*.toml")
            for alert in tomllib.loads(path.read_text()).get("alerts", {})}
    silent = re.search(r"- \*\*In no scenario\*\*(.*?)\n- \*\*", text, re.S).group(1)
    said = set(re.findall(r"\b[A-Z]\w*[a-z]\w*[A-Z0-9]\w*\b|Watchdog", silent))
    check(said == alerts - rung, f"docs/alerting.md, in no scenario: too many {said - (alerts - rung)}, missing {alerts - rung - said}")
    return len(alerts), len(said)


def main():
    services = compose()
    count = each_other(services)
    loki_and_environments()
    tell_environments()
    local()
    going_live()
    alerts, silent = what_the_page_says()
    print(f"  {len(services)} containers with what they mount, {count} addresses between them, {len(ENVIRONMENTS)} environments;"
          f" {alerts} alerts on their page, {silent} of them in no scenario")


if __name__ == "__main__":
    main()
