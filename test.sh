#!/usr/bin/env bash
# Everything that must hold before a change lands: format, lints, tests, alerts, and a simulation sweep.
set -euo pipefail
cd "$(dirname "$0")"

step() { printf '\n== %s\n' "$*"; }

step "format"
cargo fmt --all --check

step "the simulator stays behind its seam"
.ci/check-seam

step "lints"
cargo clippy --workspace --exclude sim --all-targets -- -D warnings
RUSTFLAGS='--cfg madsim' cargo clippy --target-dir target/sim --release -p sim --all-targets -- -D warnings

step "tests"
cargo test --workspace --exclude sim
RUSTFLAGS='--cfg madsim' cargo test --target-dir target/sim --release -p sim

step "alerts and dashboards"
alerts/test.sh target/debug/im-gateway

step "simulation"
cargo sim conformance
cargo sim corpus --jobs 2
if command -v promtool >/dev/null; then
  cargo sim alerts
else
  printf '\n!! SKIPPED: alerts over simulated time: promtool is not installed (Debian: prometheus)\n' >&2
fi
# Seeds that nobody has run before, and the same again for this commit.
fresh=$((16#$(git rev-parse --short=7 HEAD 2>/dev/null || echo 1)))
cargo sim sweep --seeds "$fresh..$((fresh + 50))" --jobs 2
cargo sim sweep --seeds 1..6 --sled --jobs 2
cargo sim meta --seed 1
cargo sim meta --seed "$fresh"
