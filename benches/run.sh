#!/usr/bin/env bash
# Runs the benchmarks and prints one table of all: benches/run.sh [--save] [cargo bench's arguments, such as --bench wal]
# `--save` writes the table with machine, commit and load into loadtest/results/<date>-bench.md.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/sluice/target}"
save=
if [ "${1:-}" = --save ]; then save=1; shift; fi
if [ -n "$save" ] && [ $# -gt 0 ]; then
    echo "benches/run.sh: what is kept is a run of all; leave out $*" >&2
    exit 64
fi

last=$(cat loadtest/results/*-bench.md 2>/dev/null | sed -n 's/.*; took \([0-9]* min [0-9]* s\)\..*/\1/p' | tail -1) || true # none yet
echo "All benchmarks take ${last:-about 13 min} on two quiet cores, and their build 5 to 10 minutes; \`ARGS=\"--bench wal\"\` runs some."
cargo bench --locked --no-run "$@"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
touch "$scratch/begin"
load=$(cut -d' ' -f1-3 /proc/loadavg) began=$SECONDS
cargo bench --locked "$@" 2>&1 | tee "$scratch/out"
took=$((SECONDS - began))

{
    echo "# Benchmarks, $(date -u +%F)"
    echo
    echo "- Command: \`make bench${*:+ ARGS=\"$*\"}\`; took $((took / 60)) min $((took % 60)) s. What each compares stands at the top of its file in \`benches/\`."
    echo "- Commit: $(git rev-parse --short HEAD)$(git diff --quiet HEAD -- src Cargo.lock || echo ", changed")"
    echo "- Machine: $(nproc) × $(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -1), $(awk '/MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo), Linux $(uname -r), $(rustc -V)"
    echo "- Load of the machine before and after: $load; $(cut -d' ' -f1-3 /proc/loadavg). These benchmarks themselves are 1 to 2 of it."
    echo
    echo "\"Of its floor\": how many times the time of the floor in the same rows. Times are medians."
    benches/summary.py "$CARGO_TARGET_DIR/criterion" "$scratch/begin"
    echo
    echo "### Printed"
    echo
    awk '/ Running benches\// { name = $2; sub("benches/", "", name) } /^> / { print "- `" name "`:" substr($0, 2) }' "$scratch/out"
} >"$scratch/table"
if [ -n "$save" ]; then
    result=loadtest/results/$(date -u +%F)-bench.md
    cp "$scratch/table" "$result"
    echo "written to $result"
fi
cat "$scratch/table"
