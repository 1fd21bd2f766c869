#!/usr/bin/env bash
# Opens the part files of a data folder with DuckDB and pyarrow, as anybody may, and counts: rows, tenants, rows by action. The rows of
# the access log of tenant T have the tenant `T.access`; they are left out of the counts.
# usage: loadtest/duckdb.sh DATA_DIR [EXPECTED_ROWS]
# The server must have stopped in order, so that everything is in parts. Needs python3; DuckDB and pyarrow are installed into a
# venv in the cache, unless they are there already.
set -euo pipefail

parts=$(realpath "${1:?usage: loadtest/duckdb.sh DATA_DIR [EXPECTED_ROWS]}")/parts
expected=${2:-}
cache=${SLUICE_TOOLS:-$HOME/.cache/sluice/tools}
python=python3
if ! $python -c 'import duckdb, pyarrow' 2>/dev/null; then
    python=$cache/duckdb/bin/python
    "$python" -c 'import duckdb, pyarrow' 2>/dev/null || { python3 -m venv "$cache/duckdb" && "$cache/duckdb/bin/pip" install --quiet duckdb pyarrow; }
fi

"$python" - "$parts" "$expected" <<'PYTHON'
import glob
import sys

import duckdb
import pyarrow.parquet

parts, expected = sys.argv[1:]
rows = f"(FROM read_parquet('{parts}/*.parquet') WHERE tenant NOT LIKE '%.access')"


def ask(sql):
    return duckdb.connect().execute(sql).fetchall()


count, tenants = ask(f"SELECT count(*), count(DISTINCT tenant) FROM {rows}")[0]
print(f"rows={count} tenants={tenants}")
for action, n in ask(f"SELECT action, count(*) AS n FROM {rows} GROUP BY action ORDER BY n DESC, action LIMIT 10"):
    print(f"{n:>10} {action}")
twice = ask(f"SELECT count(*) FROM (SELECT tenant, sequence FROM {rows} GROUP BY ALL HAVING count(*) > 1)")[0][0]
assert twice == 0, f"{twice} numbers are there twice"
assert not expected or count == int(expected), f"{count} rows, not {expected}"

# Every file by itself, whole, by both readers: what one of them makes of a column the other does too.
for path in sorted(glob.glob(f"{parts}/*.parquet")):
    table = pyarrow.parquet.read_table(path)
    columns = [name for name in ("tenant", "sequence", "action", "message", "metadata") if name in table.column_names]
    theirs = duckdb.connect().execute(f"SELECT {', '.join(columns)} FROM read_parquet('{path}')").fetchall()
    ours = list(zip(*(table.column(name).to_pylist() for name in columns)))
    assert sorted(map(repr, theirs)) == sorted(map(repr, ours)), f"{path}: DuckDB and pyarrow disagree"
    print(f"{path}: {table.num_rows} rows, both readers agree")
PYTHON
