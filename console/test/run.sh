#!/usr/bin/env bash
# The console in a real browser against the real server: console/test/run.sh (make test-browser).
# Needs Node.js; Chromium from the PATH or, as root, Debian's package; playwright-core from npm, into the cache. What cannot be had is
# left out loudly; in CI that is a failure. SHOTS=DIR keeps screenshots there.
set -euo pipefail
cd "$(dirname "$0")/../.."
cache=${SLUICE_TOOLS:-$HOME/.cache/sluice/tools}/browser
PLAYWRIGHT=1.65.1

leave_out() {
    echo "LEFT OUT: the console was not tested in a browser: $1" >&2
    [ -z "${CI:-}${GITHUB_ACTIONS:-}" ]
    exit
}
find_chromium() {
    for name in chromium chromium-browser google-chrome-stable google-chrome; do command -v "$name" && return; done
    return 1
}

command -v node npm >/dev/null || leave_out "no Node.js"
chromium=$(find_chromium) || {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && { apt-get install -y --no-install-recommends chromium || { apt-get update && apt-get install -y --no-install-recommends chromium; }; } >/dev/null 2>&1
    chromium=$(find_chromium) || leave_out "no Chromium"
}
mkdir -p "$cache"
[ -d "$cache/node_modules/playwright-core" ] || npm install --silent --no-fund --no-audit --prefix "$cache" "playwright-core@$PLAYWRIGHT" || leave_out "npm's playwright-core cannot be installed"

binary=${SLUICE_BIN:-}
if [ -z "$binary" ]; then
    cargo build --locked --bin sluice
    binary=${CARGO_TARGET_DIR:-target}/debug/sluice
fi
CHROMIUM=$chromium PLAYWRIGHT_CORE=$cache/node_modules/playwright-core SLUICE_BIN=$binary node console/test/board.mjs
