"""Series of simulated pods, in the form that `promtool test rules` reads."""

JOB = "im-gateway-service"
# Seconds between two scrapes.
STEP = 15
COUNTERS = ("_total", "_count", "_bucket", "_sum")
MISSING = "_"
STALE = "stale"


def is_counter(series):
    name = series.split("{")[0]
    return name.endswith(COUNTERS)


def with_labels(series, labels):
    """`name{a="b"}` with further labels."""
    name, _, rest = series.partition("{")
    inner = rest.rstrip("}")
    pairs = [f'{key}="{value}"' for key, value in labels.items()]
    return name + "{" + ",".join(([inner] if inner else []) + pairs) + "}"


class Pod:
    """One scraped node: in which state it is when, when it is scraped, and when its process began anew.

    `phases` is a list of (seconds, state); a state maps series to gauges' values and counters' rates."""

    def __init__(self, number, phases, begin=0, end=None, restarts=(), job=JOB):
        self.labels = {"job": job, "instance": f"gw-{number}:8080"}
        self.node = f"n{number}"
        self.phases, self.begin, self.end, self.restarts = phases, begin, end, restarts

    def state(self, second):
        for length, state in self.phases:
            if second < length:
                return state
            second -= length
        return self.phases[-1][1]

    def input_series(self, step):
        length = sum(length for length, _ in self.phases)
        names = {name for _, state in self.phases for name in state}
        return [
            {"series": self.name(series), "values": " ".join(self.values(series, length, step))}
            for series in sorted(names)
        ]

    def name(self, series):
        labels = dict(self.labels)
        if series.startswith(("im_gateway_", "im_service_")):
            labels["node"] = self.node
        return with_labels(series, labels)

    def values(self, series, length, step):
        total, shown, values = 0.0, False, []
        for second in range(0, length + 1, step):
            if any(second - step < restart <= second for restart in self.restarts):
                total = 0.0
            level = self.state(second).get(series)
            scraped = self.begin <= second and (self.end is None or second < self.end)
            if not scraped or level is None:
                values.append(STALE if shown else MISSING)
                shown = False
                continue
            shown = True
            if is_counter(series):
                values.append(f"{total:.6g}" if total < 1e5 else f"{total:.3f}")
                total += level * step
            else:
                values.append(f"{level:g}")
        return values
