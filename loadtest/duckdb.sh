#!/usr/bin/env bash
# Opens the part files of a data folder with DuckDB, as anybody may, and counts: rows, tenants, rows by action.
# usage: loadtest/duckdb.sh DATA_DIR [EXPECTED_ROWS]
# The server must have stopped in order, so that everything is in parts. Needs python3; DuckDB is installed into a folder
# that is removed again, unless it is there already.
set -euo pipefail

parts=$(realpath "${1:?usage: loadtest/duckdb.sh DATA_DIR [EXPECTED_ROWS]}")/parts
expected=${2:-}
python=python3
if ! $python -c 'import duckdb' 2>/dev/null; then
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    python3 -m venv "$folder/venv"
    "$folder/venv/bin/pip" install --quiet duckdb
    python=$folder/venv/bin/python
fi

"$python" - "$parts" "$expected" <<'PYTHON'
import sys

import duckdb

parts, expected = sys.argv[1:]
rows = f"read_parquet('{parts}/*.parquet')"


def ask(sql):
    return duckdb.connect().execute(sql).fetchall()


count, tenants = ask(f"SELECT count(*), count(DISTINCT tenant) FROM {rows}")[0]
print(f"rows={count} tenants={tenants}")
for action, n in ask(f"SELECT action, count(*) AS n FROM {rows} GROUP BY action ORDER BY n DESC, action LIMIT 10"):
    print(f"{n:>10} {action}")
twice = ask(f"SELECT count(*) FROM (SELECT tenant, sequence FROM {rows} GROUP BY ALL HAVING count(*) > 1)")[0][0]
assert twice == 0, f"{twice} numbers are there twice"
assert not expected or count == int(expected), f"{count} rows, not {expected}"
PYTHON
