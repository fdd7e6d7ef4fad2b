"""Runs the shipped rules in Prometheus' own engine, alert by alert: fires after its `for` and with its
labels, not just below, resolves, stays silent without data, survives restarts and replaced pods."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from cases import BUDGETS, CASES, DRAINS, G, HOUR, MIN, NO_QUORUM, burning, cluster, messages, up
from monitoring import of_the_monitoring, of_the_watchdog, of_what_is_known_late
from series import JOB, STEP, Pod, with_labels

ALERTS = Path(__file__).parent.parent
RULES = sorted((ALERTS / "rules").glob("*.yml"))
WATCHDOG = ALERTS / "watchdog.yml"
DAY = 24 * HOUR


def groups_of(paths):
    """The groups of rule files, each after those that it builds on."""
    return [group for path in paths for group in yaml.safe_load(path.read_text())["groups"]]


def round_up(seconds, step):
    return -(-seconds // step) * step


class Suite:
    """Tests that share rules and an evaluation interval."""

    def __init__(self, step=STEP, rules=RULES):
        self.step, self.rules, self.tests, self.covered = step, rules, [], {}

    def add(self, alert, situation, pods, checks, name=None, selector=""):
        """`checks`: (second, labels of the firing alert or None)."""
        series = [one for pod in pods for one in pod.input_series(self.step)]
        expression = f'ALERTS{{alertname="{alert}",alertstate="firing"{selector}}}'
        self.tests.append({
            "name": name or f"{alert}: {situation}",
            "interval": f"{self.step}s",
            "input_series": series,
            "promql_expr_test": [{
                "expr": expression,
                "eval_time": f"{second}s",
                "exp_samples": [] if labels is None else [{"labels": with_labels("ALERTS", {
                    "alertname": alert, "alertstate": "firing"} | labels), "value": 1}],
            } for second, labels in checks],
        })
        self.covered.setdefault(alert, set()).add(situation)

    def run(self, name):
        began = time.monotonic()
        with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
            json.dump({
                "rule_files": [str(path) for path in self.rules],
                "evaluation_interval": f"{self.step}s",
                # Otherwise promtool takes them as they come, and at half an hour between two evaluations
                # what a later group recorded is stale.
                "group_eval_order": [group["name"] for group in groups_of(self.rules)],
                "tests": self.tests,
            }, file)
            file.flush()
            # Each course has a database of its own, whose syncs a disk would take minutes for.
            memory = {"TMPDIR": "/dev/shm"} if os.access("/dev/shm", os.W_OK) else {}
            done = subprocess.run(["promtool", "test", "rules", file.name], capture_output=True, text=True,
                                  env=os.environ | memory)
        if done.returncode != 0:
            print(done.stdout[-8000:], done.stderr[-8000:], file=sys.stderr)
        print(f"  {name}: {len(self.tests)} courses, a scrape every {self.step} s, in {time.monotonic() - began:.0f} s")
        return done.returncode == 0


def expected(case):
    labels = {"job": JOB, "service": JOB} | case.labels
    return labels | ({"instance": "gw-1:8080"} if case.one else {})


def every_situation(suite, case):
    """Three pods; the alert's six situations."""
    ok, bad, labels = case.ok, case.bad, expected(case)
    before = case.before
    hold = round_up(case.window + case.wait + MIN, STEP)
    after = hold + 5 * MIN

    def pods(phases, first=None, number=3):
        calm = [(sum(length for length, _ in phases), ok)]
        return [first or Pod(1, phases)] + [Pod(n, calm if case.one else phases) for n in range(2, number + 1)]

    def add(situation, pods, *checks):
        suite.add(case.alert, situation, pods, checks)

    # The last moment of trouble.
    end = before + hold - STEP
    checks = [(before - STEP, None), (end, labels)]
    if case.wait:
        checks.insert(1, (before + case.wait - STEP, None))
    add("fires", pods([(before, ok), (hold, bad)]), *checks)
    lasts = case.edge_lasts or hold + 5 * MIN
    add("just below", pods([(before, ok), (lasts, case.edge), (5 * MIN, ok if case.edge_lasts else case.edge)]),
        *[(second, None) for second in range(before, before + lasts + 5 * MIN, 30)])
    add("resolves", pods([(before, ok), (hold, bad), (after, ok)]), (end, labels), (end + after, None))
    missing = case.no_data and case.no_data | {"service": JOB}
    nobody = [Pod(1, [(end, up())], job="another")] if missing else [Pod(1, [(end, up())])]
    if case.alert == "IMGatewayMetricsMissing":
        nobody = []
    add("no data", nobody, (end, missing))

    again = before + hold // 2
    add("restart", pods([(before + hold, ok)], Pod(1, [(end, ok)], restarts=[before])),
        *[(second, None) for second in range(before - MIN, end, 30)])
    add("restart", pods([(before, ok), (2 * hold, bad)], Pod(1, [(before, ok), (2 * hold, bad)], restarts=[again])),
        (before + 2 * hold - STEP, labels))

    calm = [(before + hold, ok)]
    new = Pod(4, calm, begin=before + STEP)
    add("replaced", pods(calm, Pod(1, calm, end=before)) + [new], *[(second, None) for second in range(before, end, 30)])
    phases = [(before, ok), (3 * hold, bad)]
    over = before + hold + STEP
    new = Pod(4, [(before + 3 * hold, ok if case.heals else bad)], begin=over + STEP)
    add("replaced", pods(phases, Pod(1, phases, end=over)) + [new],
        (end, labels), (before + 3 * hold - STEP, None if case.heals else labels))


def of_their_own(suite):
    """Alerts whose trouble is a course of events rather than a level."""
    job = {"job": JOB, "service": JOB}
    one = job | {"instance": "gw-1:8080"}

    # A replica that stands still while the others go on, 15 entries a scrape.
    index = "im_gateway_raft_index"
    def replica(number, stops=None, goes_on=None, end=30 * MIN, begin=0, gone=None):
        at = lambda t: t if stops is None or t < stops else (stops if goes_on is None or t < goes_on else t)
        phases = [(STEP, up() | {index + '{kind="applied"}': at(t)}) for t in range(0, end + STEP, STEP)]
        return Pod(number, phases, begin=begin, end=gone)
    stale = one | {"severity": "P2"}
    others = [replica(2), replica(3)]
    name = "IMGatewayPresenceStale"
    suite.add(name, "fires", [replica(1, 600)] + others, [(600, None), (660, None), (720, stale)])
    suite.add(name, "just below", [replica(1, 600, 660)] + others, [(t, None) for t in range(600, 1200, 15)])
    suite.add(name, "resolves", [replica(1, 600, 900)] + others, [(870, stale), (960, None)])
    suite.add(name, "no data", [Pod(1, [(HOUR, up())])], [(HOUR, None)])
    # Indexes are not counters: a restarted replica shows what its disk holds.
    suite.add(name, "restart", [replica(1, 600, 630)] + others, [(t, None) for t in range(600, 1200, 15)])
    suite.add(name, "replaced", [replica(1, gone=600)] + others + [replica(4, begin=615)],
              [(t, None) for t in range(600, 1200, 15)])
    suite.add(name, "replaced", [replica(1, 600, gone=900)] + others + [replica(4, begin=915)],
              [(870, stale), (1200, None)])

    # Inboxes that will hold 10,000 in four hours: from 500 at 1 a second that is so, but not yet 1,000.
    queue = "im_service_offline_queue_size"
    def inbox(number, *rates, start=900, begin=0, gone=None):
        level, phases = start, []
        for length, rate in rates:
            for _ in range(0, length, STEP):
                phases.append((STEP, up() | {queue: level}))
                level += rate * STEP
        return Pod(number, phases + phases[-1:], begin=begin, end=gone)
    growing = job | {"severity": "warning"}
    name = "IMGatewayInboxGrowing"
    flat, rise, slow = (HOUR, 0), (50 * MIN, 1.0), (2 * HOUR, 0.4)
    suite.add(name, "fires", [inbox(n, flat, rise) for n in (1, 2, 3)], [(HOUR, None), (HOUR + 10 * MIN, None),
                                                                         (HOUR + 49 * MIN, growing)])
    suite.add(name, "just below", [inbox(n, flat, slow, start=100) for n in (1, 2, 3)],
              [(t, None) for t in range(0, 3 * HOUR, 60)])
    suite.add(name, "resolves", [inbox(n, flat, rise, (2 * HOUR, 0)) for n in (1, 2, 3)],
              [(HOUR + 49 * MIN, growing), (3 * HOUR + 45 * MIN, None)])
    suite.add(name, "no data", [Pod(1, [(HOUR, up())])], [(HOUR, None)])
    suite.add(name, "restart", [inbox(n, flat, (HOUR, 0), start=1500) for n in (1, 2, 3)],
              [(t, None) for t in range(HOUR, 2 * HOUR, 60)])
    suite.add(name, "replaced", [inbox(1, flat, rise, gone=HOUR), inbox(2, flat, rise), inbox(4, flat, rise, begin=HOUR)],
              [(HOUR + 49 * MIN, growing)])

    # Starts of the process.
    def started(number, *times, end=40 * MIN, **more):
        phases, since = [], 0
        for second in range(0, end + STEP, STEP):
            since = max([0] + [t for t in times if t <= second])
            phases.append((STEP, up() | {"process_start_time_seconds": since}))
        return Pod(number, phases, **more)
    looping = one | {"severity": "P1"}
    name = "IMGatewayCrashLooping"
    calm = [started(2), started(3)]
    suite.add(name, "fires", [started(1, 600, 720, 840)] + calm, [(780, None), (840, looping)])
    suite.add(name, "just below", [started(1, 600, 840)] + calm, [(t, None) for t in range(0, 2400, 30)])
    suite.add(name, "resolves", [started(1, 600, 720, 840)] + calm, [(840, looping), (1530, None)])
    suite.add(name, "no data", [Pod(1, [(HOUR, up())])], [(HOUR, None)])
    suite.add(name, "restart", [started(1, 900)] + calm, [(t, None) for t in range(0, 2400, 30)])
    suite.add(name, "replaced", [Pod(1, started(1).phases, end=900), started(4, 900, begin=915)] + calm,
              [(t, None) for t in range(0, 2400, 30)])


def of_few_failures(gateway, fast, slow):
    """One failed message in quiet traffic is no alert, by whatever ratio; ten are. (What an objective's window has is
    known when rates of five minutes have seen all of it: of a sudden burst five are too few.)"""
    job = {"job": JOB, "service": JOB, "severity": "critical"}
    quiet = lambda rate, failed=0: messages(0, rate=rate) | {
        G + 'messages_failed_total{type="direct",reason="inbox_full"}': failed}
    # Three deliveries a minute, over all pods.
    pods = lambda failures, length, rate, step: [
        Pod(1, [(HOUR, quiet(rate)), (step, quiet(rate, failures / step)), (length, quiet(rate))])
    ] + [Pod(n, [(HOUR + step + length, quiet(rate))]) for n in (2, 3)]
    # Errors of who would connect, one by one. Of those every 50 s there are five or six in each five minutes.
    def seldom(every, length=HOUR):
        tries = [sum(1 for t in range(0, second, every)) for second in range(0, length + STEP, STEP)]
        rates = [(after - before) / STEP for before, after in zip(tries, tries[1:])]
        error = G + 'connection_errors_total{error_type="auth_failed"}'
        return [Pod(1, [(STEP, up() | {G + "connections_established_total": 0, error: rate}) for rate in rates])]
    name, warning = "HighConnectionErrorRate", job | {"severity": "warning"}
    gateway.add(name, "fires", seldom(50), [(t, warning) for t in range(15 * MIN, HOUR, 30)], f"{name}: one in 50 s")
    gateway.add(name, "just below", seldom(75), [(t, None) for t in range(0, HOUR, 30)], f"{name}: one in 75 s")

    burn = job | {"slo": "success", "window": "1h"}
    spent = job | {"slo": "success"}
    for alert, suite, length, rate, check, labels in [
        ("HighMessageLossRate", gateway, 20 * MIN, 1 / 60, HOUR + 4 * MIN, job),
        ("SLOFastBurn", fast, 20 * MIN, 1 / 60, HOUR + 5 * MIN - STEP, burn),
        ("ErrorBudget80PercentConsumed", slow, 5 * DAY, 1 / 1500, 5 * DAY, spent),
        ("ErrorBudget50PercentConsumed", slow, 5 * DAY, 1 / 1500, 5 * DAY, spent | {"severity": "warning"}),
        ("SLOSlowBurn", slow, 2 * DAY, 1 / 1500, HOUR + 25 * MIN, spent | {"severity": "warning", "window": "6h"}),
    ]:
        step = suite.step
        only = {"selector": ',window="6h"'} if alert == "SLOSlowBurn" else {}
        suite.add(alert, "just below", pods(1, length, rate, step), [
            (t, None) for t in range(HOUR, HOUR + length, max(length // 40, step))], f"{alert}: one failure", **only)
        suite.add(alert, "fires", pods(10, length, rate, step), [(check, labels)], f"{alert}: ten failures", **only)


def of_a_new_prometheus(fast):
    """Where nothing was ever scraped there is no outage; where everything has vanished there is one, for an hour."""
    labels = {"job": JOB, "service": JOB, "severity": "critical", "slo": "availability", "window": "1h"}
    name = "SLOFastBurn"
    late = [Pod(n, [(HOUR, cluster())], begin=5 * MIN) for n in (1, 2, 3)]
    fast.add(name, "just below", late, [(t, None) for t in range(0, HOUR, 30)], f"{name}: a new Prometheus")
    gone = [Pod(n, [(3 * HOUR, cluster())], end=HOUR) for n in (1, 2, 3)]
    fast.add(name, "fires", gone, [(HOUR, None), (HOUR + 5 * MIN, labels), (HOUR + 50 * MIN, labels), (3 * HOUR, None)],
             f"{name}: no target is left")


def of_long_courses(suite):
    """Alerts that look back for hours."""
    one = {"job": JOB, "service": JOB, "instance": "gw-1:8080", "severity": "P2"}
    # A disk of 1,000,000 that loses so much a second; the rule looks back six hours, three at least, and ahead a day.
    def disk(free, rate, length=5 * HOUR):
        states = [(STEP, up() | {G + "data_free_bytes": max(free - rate * t, 0), G + "data_size_bytes": 1e6})
                  for t in range(0, length, STEP)]
        return [Pod(1, states)]
    name, late = "IMGatewayDiskFilling", 3 * HOUR + 16 * MIN
    suite.add(name, "fires", disk(4e5, 5), [(2 * HOUR, None), (3 * HOUR + 10 * MIN, None), (late, one)],
              f"{name}: full within a day")
    suite.add(name, "just below", disk(4e5, 4, 3 * HOUR + 30 * MIN), [(t, None) for t in range(0, 3 * HOUR + 30 * MIN, 60)],
              f"{name}: full in more than a day")
    suite.add(name, "just below", disk(9e5, 12), [(t, None) for t in range(0, 5 * HOUR, 60)],
              f"{name}: more than half is free")

    # It rings until something is delivered, not until the hour with traffic is forgotten.
    job = {"job": JOB, "service": JOB, "severity": "P2"}
    name, dead = "IMGatewayNoTraffic", 6 * HOUR
    course = [(HOUR, messages(0)), (dead, messages(0, rate=0)), (HOUR, messages(0))]
    suite.add(name, "fires", [Pod(n, course) for n in (1, 2, 3)],
              [(t, job) for t in range(HOUR + 22 * MIN, HOUR + dead, 5 * MIN)] + [(HOUR + dead + 5 * MIN, None)],
              f"{name}: until it is over")
    faint = [(HOUR, messages(0, rate=0.02)), (HOUR, messages(0, rate=0))]
    suite.add(name, "just below", [Pod(n, faint) for n in (1, 2, 3)], [(t, None) for t in range(0, 2 * HOUR, 60)],
              f"{name}: there never was much")


def of_the_objectives(fast, slow, month):
    """Burn rates and budgets: arithmetic over hours, days and a month."""
    job = {"job": JOB, "service": JOB}
    three = lambda phases: [Pod(n, phases) for n in (1, 2, 3)]
    calm, hour = messages(0), (HOUR, messages(0))

    # 14.4 in an hour; the seed's single window went on for 51 minutes after the trouble.
    burn = lambda slo: job | {"slo": slo, "severity": "critical", "window": "1h"}
    name = "SLOFastBurn"
    for slo in ("success", "latency"):
        ok, bad = burning(slo, 0), burning(slo, 60 if slo == "latency" else 200)
        first = HOUR + 30 * MIN
        fast.add(name, "fires", three([(HOUR, ok), (30 * MIN, bad)]), [(HOUR, None), (first, burn(slo))])
        fast.add(name, "resolves", three([(HOUR, ok), (30 * MIN, bad), (20 * MIN, ok)]),
                 [(first, burn(slo)), (first + 8 * MIN, None)])
        fast.add(name, "just below", three([(2 * HOUR, burning(slo, 13.5))]), [(2 * HOUR, None)])
        fast.add(name, "just below", three([(2 * HOUR, burning(slo, 15.5))]), [(2 * HOUR, burn(slo))])
    # One node of three down for a minute in the service's first hour is no page, all of them is.
    ready, gone = cluster(), up(0)
    minute = [(10 * MIN, ready), (MIN, gone), (20 * MIN, ready)]
    fast.add(name, "just below", [Pod(1, minute), Pod(2, [(HOUR, ready)]), Pod(3, [(HOUR, ready)])],
             [(t, None) for t in range(0, 30 * MIN, 30)])
    down = three([(10 * MIN, ready), (6 * MIN, gone), (HOUR, ready)])
    fast.add(name, "fires", down, [(15 * MIN, burn("availability"))])
    fast.add(name, "resolves", down, [(15 * MIN, burn("availability")), (29 * MIN, None)])
    # A quorum lost is an outage, though every node answers.
    split = three([(10 * MIN, ready), (6 * MIN, cluster(**NO_QUORUM))])
    fast.add(name, "fires", split, [(15 * MIN, burn("availability"))])
    # Those that drain have moved their clients; not so if they have lost the quorum as well.
    both = cluster(change=NO_QUORUM["change"] | DRAINS["change"])
    fast.add(name, "just below", three([(10 * MIN, ready), (20 * MIN, cluster(**DRAINS))]),
             [(t, None) for t in range(0, 30 * MIN, 30)], f"{name}: all drain")
    fast.add(name, "fires", three([(10 * MIN, ready), (6 * MIN, both)]), [(15 * MIN, burn("availability"))],
             f"{name}: all drain without a quorum")
    # A node that tells of no other reason than this.
    alone = up() | {G + "ready": 0, G + 'not_ready{reason="draining"}': 1}
    fast.add(name, "just below", three([(10 * MIN, ready), (20 * MIN, alone)]), [(t, None) for t in range(0, 30 * MIN, 30)],
             f"{name}: all drain and say nothing else")
    fast.add(name, "no data", [Pod(1, [(2 * HOUR, up())])], [(2 * HOUR, None)])
    fast.add(name, "no data", three([(2 * HOUR, messages(0, rate=0))]), [(2 * HOUR, None)])
    fast.add(name, "restart", [Pod(n, [(2 * HOUR, calm)], restarts=[HOUR]) for n in (1, 2, 3)], [(2 * HOUR, None)])
    old, new = Pod(1, [(2 * HOUR, ready | calm)], end=HOUR), Pod(4, [(2 * HOUR, ready | calm)], begin=HOUR + STEP)
    fast.add(name, "replaced", [old, new] + three([(2 * HOUR, ready | calm)])[1:],
             [(t, None) for t in range(0, 2 * HOUR, 60)])

    for name, severity, window, factor, length in [
        ("SLOSustainedBurn", "P1", "6h", 6, 8 * HOUR), ("SLOSlowBurn", "warning", "6h", 6, 8 * HOUR),
        ("SLOSlowBurn", "warning", "1d", 3, 30 * HOUR), ("SLOSlowBurn", "warning", "3d", 1, 80 * HOUR),
    ]:
        labels = job | {"slo": "success", "severity": severity, "window": window}
        only = dict(selector=f',window="{window}",slo="success"')
        add = lambda situation, pods, checks: slow.add(name, situation, pods, checks, f"{name} {window}: {situation}", **only)
        over, under = burning("success", factor * 1.1), burning("success", factor * 0.95)
        add("fires", three([(length, over)]), [(length // 2, None), (length, labels)])
        add("just below", three([(length, under)]), [(length, None)])
        over_since = length + 7 * HOUR
        add("resolves", three([(length, over), (8 * HOUR, calm)]), [(length, labels), (over_since, None)])
        add("no data", [Pod(1, [(length, up())])], [(length, None)])
        add("restart", [Pod(n, [(length, under)], restarts=[length // 2]) for n in (1, 2, 3)], [(length, None)])
        add("replaced", [Pod(1, [(length, under)], end=length // 2), Pod(4, [(length, under)], begin=length // 2)]
            + three([(length, under)])[1:], [(length, None)])

    # 99.95% of 30 days are 21.6 minutes: 10.8 are half of it, 17.28 are 80%.
    for name, severity, enough, too_few in [("ErrorBudget50PercentConsumed", "warning", 11, 10.5),
                                            ("ErrorBudget80PercentConsumed", "critical", 17.5, 17)]:
        labels = job | {"slo": "availability", "severity": severity}
        def outage(minutes, then=HOUR):
            return [(HOUR, ready), (round(minutes * MIN), gone), (then, ready)]
        end = lambda minutes: round(HOUR + minutes * MIN + HOUR)
        fast.add(name, "fires", three(outage(enough)), [(HOUR + 10 * MIN, None), (end(enough) - MIN, labels)])
        fast.add(name, "just below", three(outage(too_few)), [(end(too_few) - MIN, None)])
        # A single node of three is a third of the service.
        third = [Pod(1, outage(3 * too_few))] + [Pod(n, [(end(3 * too_few), ready)]) for n in (2, 3)]
        fast.add(name, "just below", third, [(end(3 * too_few) - MIN, None)])
        fast.add(name, "no data", [Pod(1, [(HOUR, up())])], [(HOUR, None)])
        fast.add(name, "restart", [Pod(n, [(2 * HOUR, ready)], restarts=[HOUR]) for n in (1, 2, 3)], [(2 * HOUR, None)])
        fast.add(name, "replaced", [Pod(1, [(2 * HOUR, ready)], end=HOUR), Pod(4, [(2 * HOUR, ready)], begin=HOUR + STEP)]
                 + three([(2 * HOUR, ready)])[1:], [(t, None) for t in range(0, 2 * HOUR, 60)])
        month.add(name, "resolves", three([(DAY, ready), (HOUR, gone), (31 * DAY, ready)]),
                  [(2 * DAY, labels), (30 * DAY, labels), (32 * DAY, None)], selector=',slo="availability"')


def home(alert):
    """The rule file that has an alert."""
    return next(path.name for path in RULES if f"alert: {alert}\n" in path.read_text())


def main():
    slo = [path for path in RULES if path.name == "slo.yml"]
    # Each alert is tested with its own file only, which keeps the time down.
    suites = {path.name: Suite(STEP, [path]) for path in RULES}
    slow, month, whole = suites["slow"], suites["month"], suites["whole"] = (
        Suite(5 * MIN, slo), Suite(30 * MIN, slo), Suite())
    for case in CASES:
        every_situation(suites[home(case.alert)], case)
    of_their_own(suites["cluster.yml"])
    of_long_courses(suites["cluster.yml"])
    suites[WATCHDOG.name] = Suite(STEP, [WATCHDOG])
    of_the_watchdog(suites[WATCHDOG.name])
    of_the_monitoring(suites["monitoring.yml"])
    of_what_is_known_late(suites["monitoring.yml"])
    of_the_objectives(suites["slo.yml"], slow, month)
    of_few_failures(suites["gateway.yml"], suites["slo.yml"], slow)
    of_a_new_prometheus(suites["slo.yml"])
    # A healthy cluster raises nothing at all.
    healthy = [Pod(n, [(2 * HOUR, cluster() | messages(0) | burning("latency", 0))]) for n in (1, 2, 3)]
    whole.add(".+", "healthy", healthy, [])
    whole.tests[-1]["promql_expr_test"] = [{"expr": "ALERTS", "eval_time": "2h", "exp_samples": []}]

    missing = []
    covered = {}
    for suite in suites.values():
        for alert, situations in suite.covered.items():
            covered.setdefault(alert, set()).update(situations)
    wanted = {"fires", "just below", "resolves", "no data", "restart", "replaced"}
    rules = [rule for group in groups_of(RULES) for rule in group["rules"]]
    alerts = sorted({rule["alert"] for rule in rules if "alert" in rule})
    missing = [f"{alert}: {', '.join(sorted(wanted - covered.get(alert, set())))}" for alert in alerts
               if wanted - covered.get(alert, set())]
    for line in missing:
        print(f"not tested: {line}", file=sys.stderr)
    done = [suite.run(name) for name, suite in suites.items()]
    tests = sum(len(suite.tests) for suite in suites.values())
    checks = sum(len(test["promql_expr_test"]) for suite in suites.values() for test in suite.tests)
    if missing or not all(done):
        sys.exit(1)
    print(f"{len(alerts)} alerts, {tests} courses of events, {checks} checks: all as they should be")


if __name__ == "__main__":
    main()
