#!/usr/bin/env bash
# Holds dashboards and pages against Grafana's published types and the grammars of PromQL and LogQL.
# Fetches packages with npm, and takes minutes; not part of test.sh for both reasons.
set -euo pipefail
cd "$(dirname "$0")/../.."
modules=$(mktemp -d)
trap 'rm -rf "$modules"' EXIT
npm install --silent --no-audit --no-fund --prefix "$modules" @grafana/schema@11.6.0 ts-json-schema-generator@2 ajv@8 \
  @prometheus-io/lezer-promql @grafana/lezer-logql @lezer/common @lezer/lr @lezer/highlight
node alerts/checks/grammar.mjs "$modules" dashboards/*.json docs/*.md
