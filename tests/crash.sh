#!/usr/bin/env bash
# tests/crash.sh [--kills N] [--seed N]: kills the real binary N times (1,000 by default) under load, and its starts too, in rounds of 50
# on a folder each; after each ten kills every acknowledged entry must be there once, numbers dense, counters exact. About 10 minutes.
# A run that is broken off goes on where it was; one with a seed begins anew.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/sluice/target}" SLUICE_KILLS=1000
export SLUICE_PROGRESS="$CARGO_TARGET_DIR/crash-progress"
while [ $# -gt 0 ]; do
    case $1 in
    --kills) SLUICE_KILLS=$2; shift 2 ;;
    --seed) export SLUICE_SEED=$2; rm -f "$SLUICE_PROGRESS"; shift 2 ;;
    *) sed -n 2,4p "$0" >&2; exit 64 ;;
    esac
done
cargo test --locked --test it crash::nothing_acknowledged -- --nocapture
rm -f "$SLUICE_PROGRESS"
