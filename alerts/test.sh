#!/usr/bin/env bash
# Alerts, notifications, configurations and dashboards against the real Prometheus and Alertmanager.
# With a gateway binary (`alerts/test.sh target/debug/im-gateway`) also every panel, against real nodes.
set -euo pipefail
cd "$(dirname "$0")"
export PYTHONDONTWRITEBYTECODE=1

# Debian's own Python has the packages that apt installs.
python=python3
[ ! -x /usr/bin/python3 ] || python=/usr/bin/python3
skip() { printf '\n!! SKIPPED: %s\n' "$*" >&2; }

if ! "$python" -c 'import yaml' 2>/dev/null; then
  skip "all checks of alerts and dashboards: python3-yaml is not installed"
  exit 0
fi
if command -v promtool >/dev/null; then
  echo "alert rules"
  promtool check rules rules/*.yml watchdog.yml >/dev/null
  promtool check config --syntax-only ../deploy/docker/prometheus.yml >/dev/null
  "$python" checks/test_rules.py
else
  skip "alert rules: promtool is not installed (Debian: prometheus)"
fi
if command -v amtool >/dev/null && command -v prometheus-alertmanager >/dev/null; then
  echo "notifications"
  "$python" checks/test_alertmanager.py
else
  skip "notifications: Alertmanager is not installed (Debian: prometheus-alertmanager)"
fi
echo "logs"
"$python" checks/test_logs.py
echo "deployment"
"$python" checks/test_deploy.py
echo "dashboards"
if [ $# -gt 0 ] && command -v prometheus >/dev/null; then
  "$python" checks/test_dashboards.py "$(cd "$OLDPWD" && realpath "$1")"
else
  skip "panels against real nodes: that takes a gateway binary as argument, and Prometheus"
  "$python" checks/test_dashboards.py
fi
