#!/usr/bin/env bash
# Runs load scenarios against a release build: loadtest/run.sh [--save] [NAME …]. A name is that of a file in loadtest/scenarios, or answers, soak,
# distributed, pipeline, thin or outage. Without a name: the standard set, which is all files; the first line says how long it takes.
# `--save` writes what each says into loadtest/results; `ARGS="--seconds 60"` passes options on. What stands on real engines
# gets them started and ended here, unless the environment names some.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/sluice/target}"
save=() names=()
for one in "$@"; do
  if [ "$one" = --save ]; then save=(--save); else names+=("$one"); fi
done
[ ${#names[@]} -gt 0 ] || names=(bulk single ack lag tenants flood mixed idle kill restart slow-store store-down)
cargo build --locked --release --bin sluice --example loadtest
for name in "${names[@]}"; do
  case $name in
  distributed | pipeline | thin | outage) engines=yes ;;
  *) ! grep -qs '^stores = "stand_ins"' "loadtest/scenarios/$name.toml" || engines=yes ;;
  esac
done
if [ -n "${engines:-}" ] && [ -z "${SLUICE_TEST_CLICKHOUSE:-}" ]; then
  folder=$(mktemp -d)
  trap 'engines/down "$folder" >/dev/null 2>&1; rm -rf "$folder"' EXIT
  addresses=$(engines/up "$folder" clickhouse opensearch s3)
  eval "$addresses"
fi
# shellcheck disable=SC2086 # options are words
"$CARGO_TARGET_DIR/release/examples/loadtest" "${names[@]}" "${save[@]}" --server "$CARGO_TARGET_DIR/release/sluice" ${ARGS:-}
