#!/usr/bin/env bash
# Runs load scenarios against a release build and prints one line each: loadtest/run.sh [SCENARIO …] (default: all of the quick ones).
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/sluice/target}"
cargo build --locked --release --bin sluice --example loadtest
for scenario in "${@:-bulk single lag}"; do
  for one in $scenario; do "$CARGO_TARGET_DIR/release/examples/loadtest" "$one" --server "$CARGO_TARGET_DIR/release/sluice"; done
done
