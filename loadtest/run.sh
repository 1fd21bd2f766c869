#!/usr/bin/env bash
# Runs load scenarios against a release build and prints one line each: loadtest/run.sh [SCENARIO …] (default: all of the quick ones).
# `distributed`, `pipeline`, `thin` and `outage` stand on real engines, which are started and ended here unless the environment names some.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/sluice/target}"
cargo build --locked --release --bin sluice --example loadtest
for scenario in "${@:-bulk single lag}"; do
  for one in $scenario; do
    case $one in
    distributed | pipeline | thin | outage)
      if [ -z "${SLUICE_TEST_CLICKHOUSE:-}" ]; then
        engines=$(mktemp -d)
        trap 'engines/down "$engines" >/dev/null 2>&1; rm -rf "$engines"' EXIT
        addresses=$(engines/up "$engines" clickhouse opensearch s3)
        eval "$addresses"
      fi ;;
    esac
    "$CARGO_TARGET_DIR/release/examples/loadtest" "$one" --server "$CARGO_TARGET_DIR/release/sluice" ${ARGS:-}
  done
done
