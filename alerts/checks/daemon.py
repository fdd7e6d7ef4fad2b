"""Processes that a check starts on the loopback, and ends."""

import contextlib
import json
import socket
import subprocess
import time
import urllib.request


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(command, log, ready=None, ready_within=60):
    """A process whose output goes to the file `log`; ended on the way out."""
    with open(log, "wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        if ready is not None:
            until(lambda: process.poll() is not None or answers(ready), f"{command[0]} is ready", ready_within)
            if process.poll() is not None:
                raise SystemExit(f"{command[0]} ended at once: {open(log).read()[-2000:]}")
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return response.status == 200
    except OSError:
        return False


def get(url):
    with urllib.request.urlopen(url, timeout=60) as response:
        return json.load(response)


def post(url, body):
    data = json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return response.read()


def until(condition, what, within=60, every=0.1):
    """Waits for a condition; its truthy value."""
    deadline = time.monotonic() + within
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {within} s: {what}")
        time.sleep(every)
    return found
