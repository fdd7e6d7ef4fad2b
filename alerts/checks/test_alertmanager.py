"""The shipped configuration in a real Alertmanager: routes, channels, repeats, grouping, inhibition,
resolution, silences, business hours. Everything that lasts is 600 times shorter."""

import contextlib
import datetime
import re
import subprocess
import tempfile
from pathlib import Path

import yaml

from daemon import free_port, get, post, running, until
from sink import Sink

ROOT = Path(__file__).parent.parent.parent
CONFIG = ROOT / "deploy/docker/alertmanager-config.yml"
FASTER = 600
JOB = "im-gateway-service"

CHANNELS = {
    "critical": {"pagerduty", "#alerts-critical", "email"},
    "P1": {"pagerduty", "#alerts-critical"},
    "P2": {"#alerts-p2"},
    "warning": {"#alerts-warnings"},
}
REPEATS_S = {"critical": 15 * 60, "P1": 30 * 60, "P2": 2 * 3600, "warning": 4 * 3600}
UNITS_S = {"s": 1, "m": 60, "h": 3600}


def check(fact, what):
    if not fact:
        raise SystemExit(f"alertmanager: {what}")


def alerts():
    """The shipped alerts' names, and the labels their rules give them."""
    rules = [rule for path in [*sorted((ROOT / "alerts/rules").glob("*.yml")), ROOT / "alerts/watchdog.yml"]
             for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]
    return {rule["alert"]: rule["labels"] for rule in rules if "alert" in rule}


def grammar(shipped):
    """Each alert's labels go to the receiver of its severity."""
    subprocess.run(["amtool", "check-config", str(CONFIG)], check=True, stdout=subprocess.DEVNULL)
    receivers = {"critical": "critical", "P1": "p1", "P2": "p2", "warning": "slack-warnings"}
    special = {"Watchdog": "dead-mans-switch", "AlertsNotDelivered": "every-way"}
    for alert, labels in shipped.items():
        pairs = [f"{name}={value}" for name, value in ({"alertname": alert} | labels).items()]
        found = subprocess.run(["amtool", "config", "routes", "test", f"--config.file={CONFIG}", *pairs],
                               capture_output=True, text=True, check=True).stdout.strip()
        check(found == (special.get(alert) or receivers[labels["severity"]]), f"{alert} goes to {found}")


def receiver(name):
    return next(one for one in yaml.safe_load(CONFIG.read_text())["receivers"] if one["name"] == name)


def budgets_are_told_once_a_day():
    """Both routes of a severity that a budget has leave it a day, and the hours that the severity has."""
    routes = {route["matchers"][0]: route for route in yaml.safe_load(CONFIG.read_text())["route"]["routes"]}
    for severity in ("critical", "warning"):
        route = routes[f"severity = {severity}"]
        (child,) = route["routes"]
        check(child["matchers"] == ['alertname =~ "ErrorBudget.*"'] and child["repeat_interval"] == "24h", f"budgets: {child}")
        hours = "active_time_intervals"
        check(child.get(hours) == route.get(hours), f"budgets of severity {severity} have other hours")


def faster(node):
    """Durations of routes, shortened."""
    if isinstance(node, list):
        return [faster(item) for item in node]
    if not isinstance(node, dict):
        return node
    def value(key, inner):
        if key in ("group_wait", "group_interval", "repeat_interval"):
            number, unit = re.fullmatch(r"(\d+)([smh])", inner).groups()
            return f"{int(number) * UNITS_S[unit] * 1000 // FASTER}ms"
        return faster(inner)
    return {key: value(key, inner) for key, inner in node.items()}


def rendered(sink, folder, open_now):
    """The shipped configuration, told to send to the sink."""
    config = yaml.safe_load(CONFIG.read_text())
    for secret, text in [("slack-url", f"http://127.0.0.1:{sink.http}/slack"), ("pagerduty-key", "key")]:
        (folder / secret).write_text(text)
    config["global"] |= {
        "slack_api_url_file": str(folder / "slack-url"),
        "pagerduty_url": f"http://127.0.0.1:{sink.http}/pagerduty/v2/enqueue",
        "smtp_smarthost": f"127.0.0.1:{sink.smtp}",
        "smtp_require_tls": False,
    }
    del config["global"]["smtp_auth_username"], config["global"]["smtp_auth_password_file"]
    for receiver in config["receivers"]:
        receiver["pagerduty_configs"] = [one | {"routing_key_file": str(folder / "pagerduty-key")}
                                         for one in receiver.get("pagerduty_configs", [])]
        for one in receiver.get("webhook_configs", []):
            one["url"] = f"http://127.0.0.1:{sink.http}/{receiver['name']}"
    today = datetime.datetime.now(datetime.timezone.utc).isoweekday()
    days = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
    weekdays = days if open_now else [days[(today + 2) % 7]]
    config["time_intervals"][0]["time_intervals"] = [{"weekdays": weekdays}]
    config["route"] = faster(config["route"])
    path = folder / "alertmanager.yml"
    path.write_text(yaml.safe_dump(config))
    return path


class Manager:
    """A running Alertmanager and its sink."""

    def __init__(self, url, sink):
        self.url, self.sink = url, sink

    def tell(self, alert, labels, resolved=False, **more):
        now = datetime.datetime.now(datetime.timezone.utc)
        labels = {"alertname": alert, "job": JOB} | labels | more
        annotations = {"summary": f"summary of {alert}", "description": "d", "runbook_url": "http://r/", "dashboard": "http://d/"}
        ends = {"endsAt": (now - datetime.timedelta(seconds=1)).isoformat()} if resolved else {}
        begun = (now - datetime.timedelta(minutes=1)).isoformat()
        post(self.url + "/api/v2/alerts", [{"labels": labels, "annotations": annotations, "startsAt": begun} | ends])

    def wait(self, text, channels):
        until(lambda: channels <= self.sink.channels(text), f"{text} at {channels}, is at {self.sink.channels(text)}")


@contextlib.contextmanager
def manager(open_now=True):
    sink = Sink()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        command = ["prometheus-alertmanager", f"--config.file={rendered(sink, folder, open_now)}",
                   f"--storage.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}",
                   "--cluster.listen-address=", "--log.level=warn"]
        with running(command, folder / "log", url + "/-/ready"):
            yield Manager(url, sink)
    sink.close()


def routes_and_repeats(shipped):
    """One alert of each severity reaches its channels, again and again, no sooner than it should."""
    chosen = {"critical": "HighMessageLossRate", "P1": "HighMessageDeliveryLatency", "P2": "HighAckTimeoutRate",
              "warning": "TooManyActiveConnections"}
    spent = "ErrorBudget80PercentConsumed"
    with manager() as am:
        am.tell(spent, shipped[spent], slo="availability")
        for severity, alert in chosen.items():
            am.tell(alert, shipped[alert])
        for severity, alert in chosen.items():
            am.wait(alert, CHANNELS[severity])
        slack = lambda alert: [when for when, channel, _ in am.sink.named(alert) if channel.startswith("#")]
        for severity, alert in chosen.items():
            until(lambda: len(slack(alert)) >= 2, f"{alert} is repeated", 120)
            times = slack(alert)
            pauses = [later - earlier for earlier, later in zip(times, times[1:])]
            least = REPEATS_S[severity] / FASTER
            # The network between us is not part of the interval.
            check(min(pauses) > least * 0.9 - 0.2, f"{alert} was repeated after {min(pauses):.2f} s, not {least:.2f} s")
            print(f"  {severity}: {', '.join(sorted(CHANNELS[severity]))}; {len(times)} times,"
                  f" at least {min(pauses) * FASTER / 60:.0f} min apart (asked: {REPEATS_S[severity] // 60})")
        for severity, alert in chosen.items():
            check(am.sink.channels(alert) == CHANNELS[severity], f"{alert} reached {am.sink.channels(alert)}")
        told = am.sink.named(spent)
        check(sorted(channel for _, channel, _ in told) == sorted(CHANNELS["critical"]),
              f"a spent budget was told {len(told)} times by {am.sink.channels(spent)}: not once each way")
        print(f"  a spent budget: once in {REPEATS_S['warning'] // 3600} hours, all three ways")
        page = next(what for _, channel, what in am.sink.named("HighMessageLossRate") if channel == "pagerduty")
        check(page["event_action"] == "trigger" and page["payload"]["severity"] == "critical", f"page: {page}")
        check([link["text"] for link in page["links"]] == ["Runbook", "Dashboard"], f"links: {page['links']}")
        mail = next(what for _, channel, what in am.sink.named("HighMessageLossRate") if channel == "email")
        to = next(one["to"] for one in receiver("critical")["email_configs"])
        check(mail == {"to": to, "subject": "[firing] critical HighMessageLossRate"}, f"mail: {mail}")
        am.tell("HighMessageLossRate", shipped["HighMessageLossRate"], resolved=True)
        told = lambda kind: [what for _, channel, what in am.sink.named("HighMessageLossRate") if channel.startswith(kind)]
        until(lambda: any(what["event_action"] == "resolve" for what in told("pagerduty")), "PagerDuty is told the end")
        until(lambda: any("RESOLVED" in what["attachments"][0]["title"] for what in told("#")), "Slack is told the end")
        until(lambda: any("[resolved]" in what["subject"] for what in told("email")), "the mail says the end")


def matcher(text):
    """`name = value`, `name != value` or `name =~ value`."""
    name, how, value = re.fullmatch(r'(\w+) (!=|=~|=) "?([^"]*)"?', text).groups()
    return name, how, value


def pairs_of(rule):
    """Each source with each target of a rule: their names, the labels that the rule asks of the target, and those
    with which it lets it alone."""
    (_, _, sources), (_, _, targets) = matcher(rule["source_matchers"][0]), matcher(rule["target_matchers"][0])
    further = [matcher(text) for text in rule["target_matchers"][1:]]
    hit = {name: value if how == "=" else "another" for name, how, value in further}
    spared = {name: value if how == "!=" else "another" for name, how, value in further}
    return [(source, target, hit, spared) for source in sources.split("|") for target in targets.split("|")]


def inhibition(shipped):
    """What follows from something worse is not told: where all labels agree that the rule names, and only there."""
    rules = yaml.safe_load(CONFIG.read_text())["inhibit_rules"]
    pairs = [(rule["equal"], *pair) for rule in rules for pair in pairs_of(rule)]
    for _, source, target, _, _ in pairs:
        check(source in shipped and target in shipped, f"inhibition of {target} by {source}: no such alert")
    with manager() as am:
        # Labels of its own keep each pair apart.
        own = [{label: f"{label}-{number}" for label in equal} for number, (equal, *_) in enumerate(pairs)]
        for labels, (_, source, *_) in zip(own, pairs):
            am.tell(source, shipped[source], **labels)
        for _, source, *_ in pairs:
            until(lambda: am.sink.named(source), f"{source} is told")
        others = 0
        for number, (labels, (equal, _, target, hit, spared)) in enumerate(zip(own, pairs)):
            am.tell(target, shipped[target] | hit, **labels, marker=f"hidden-{number}")
            for label in equal:
                am.tell(target, shipped[target] | hit, **labels | {label: "other"}, marker=f"shown-{number}-{label}")
            if spared:
                am.tell(target, shipped[target] | spared, **labels, marker=f"shown-{number}-spared")
            others += len(equal) + bool(spared)
        # What nothing inhibits arrives after what should not have.
        am.tell("IMGatewayCrashLooping", shipped["IMGatewayCrashLooping"], job="last")
        for _, _, target, *_ in pairs:
            until(lambda: am.sink.named(target), f"{target} is told where it is not inhibited")
        until(lambda: am.sink.named("IMGatewayCrashLooping"), "the last is told")
        state = {alert["labels"].get("marker"): alert["status"] for alert in get_alerts(am)}
        for number, (_, source, target, *_) in enumerate(pairs):
            check(state[f"hidden-{number}"]["inhibitedBy"], f"{source} does not inhibit {target}")
            for marker in (marker for marker in state if (marker or "").startswith(f"shown-{number}-")):
                check(not state[marker]["inhibitedBy"], f"{target} is inhibited elsewhere: {marker}")
        check(sum((marker or "").startswith("shown-") for marker in state) == others, "alerts were lost")
    print(f"  {len(pairs)} inhibitions, and {others} alerts beside them that are told")


def get_alerts(am):
    return get(am.url + "/api/v2/alerts")


def grouping_and_silences(shipped):
    """Three nodes down are one page; the maintenance silence hides everything of the service."""
    down = "IMGatewayServiceDown"
    with manager() as am:
        for number in range(3):
            am.tell(down, shipped[down], instance=f"gw-{number}")
        pages = lambda: [what for _, channel, what in am.sink.named(down) if channel == "pagerduty"]
        whole = lambda what: "firing" in str(what) and all(f"gw-{n}" in str(what) for n in range(3))
        until(lambda: any(whole(page) for page in pages()), "one page names all three nodes")
        check(len({page["dedup_key"] for page in pages()}) == 1, "three nodes are one incident")
        print("  3 nodes down: 1 incident")

        subprocess.run(["amtool", f"--alertmanager.url={am.url}", "silence", "add", 'alertname=~".+"',
                        'service="im-gateway-service"', "--duration=2h", "--comment=Maintenance"],
                       check=True, stdout=subprocess.DEVNULL)
        silenced = lambda: [alert["status"]["silencedBy"] for alert in get_alerts(am)]
        until(lambda: all(silenced()), "the silence holds for all alerts of the service")
        am.tell("HighMessageLossRate", shipped["HighMessageLossRate"])
        # Told later and on the same route, of another service: by then the silenced one would be here.
        am.tell("MonitoringComponentDown", shipped["MonitoringComponentDown"] | {"severity": "critical"})
        am.wait("MonitoringComponentDown", CHANNELS["critical"])
        check(not am.sink.named("HighMessageLossRate"), "a silenced alert was told")
        print("  silence of the service: its alerts are quiet, the monitoring's are not")

    # The runbook's, for what is known and stays.
    with manager() as am:
        spent = "ErrorBudget80PercentConsumed"
        ends = (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=20)).strftime("%Y-%m-%dT%H:%M:%SZ")
        subprocess.run(["amtool", f"--alertmanager.url={am.url}", "silence", "add", 'alertname=~"ErrorBudget.+"',
                        'slo="availability"', f"--end={ends}", "--comment=Known"], check=True, stdout=subprocess.DEVNULL)
        am.tell(spent, shipped[spent], slo="availability")
        am.tell(spent, shipped[spent], slo="latency")
        am.tell("SLOFastBurn", shipped["SLOFastBurn"], slo="availability")
        until(lambda: am.sink.named(spent) and am.sink.named("SLOFastBurn"), "what is not silenced is told")
        silenced = {(alert["labels"]["alertname"], alert["labels"]["slo"]) for alert in get_alerts(am)
                    if alert["status"]["silencedBy"]}
        check(silenced == {(spent, "availability")}, f"silenced: {silenced}")
        (silence,) = get(am.url + "/api/v2/silences")
        check(silence["endsAt"].startswith(ends[:16]), f"the silence ends {silence['endsAt']}, not {ends}")
        print("  silence of a spent budget until a date: others' budgets and new burns are told")


def of_the_monitoring(shipped):
    """The watchdog goes to its switch alone, again and again; what failed to be delivered goes every way."""
    lost = "AlertsNotDelivered"
    with manager() as am:
        am.tell("Watchdog", shipped["Watchdog"])
        am.tell(lost, shipped[lost])
        am.wait(lost, {"pagerduty", "#alerts-p2", "email"})
        until(lambda: len(am.sink.named("Watchdog")) >= 3, "the watchdog is told again and again")
        check(am.sink.channels("Watchdog") == {"dead-mans-switch"}, f"the watchdog reached {am.sink.channels('Watchdog')}")
        print(f"  the watchdog: its switch alone, again and again; {lost}: {', '.join(sorted(am.sink.channels(lost)))}")


def business_hours(shipped):
    """Outside business hours a warning waits; a P2 does not."""
    with manager(open_now=False) as am:
        half = "ErrorBudget50PercentConsumed"
        am.tell("TooManyActiveConnections", shipped["TooManyActiveConnections"])
        am.tell(half, shipped[half], slo="latency")
        am.tell("HighAckTimeoutRate", shipped["HighAckTimeoutRate"])
        am.wait("HighAckTimeoutRate", {"#alerts-p2"})
        am.tell("IMGatewayNoTraffic", shipped["IMGatewayNoTraffic"])
        am.wait("IMGatewayNoTraffic", {"#alerts-p2"})
        for alert in ("TooManyActiveConnections", half):
            check(not am.sink.named(alert), f"{alert} was told outside business hours")
        print("  outside business hours: no warnings")


def main():
    shipped = alerts()
    grammar(shipped)
    budgets_are_told_once_a_day()
    print(f"  {len(shipped)} alerts go to the receivers of their severities")
    routes_and_repeats(shipped)
    inhibition(shipped)
    grouping_and_silences(shipped)
    of_the_monitoring(shipped)
    business_hours(shipped)


if __name__ == "__main__":
    main()
