#!/usr/bin/env python3
"""What criterion measured, as tables: benches/summary.py CRITERION-FOLDER [SINCE-FILE]

A row is a benchmark: the median, the spread that criterion gives it (95 %), the time of one element and how many of them a second. A
benchmark whose name begins with "floor" is what the others of its group and input are compared with: their last column is how many
times its time they take. With SINCE-FILE, what was measured before that file was made is left out.
"""

import json
import pathlib
import sys

FLOOR = "floor"


def scaled(value, units):
    """A number in the largest unit of which there is at least one."""
    factor, name = next((unit for unit in units if value >= unit[0]), units[-1])
    value /= factor
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {name}"


def time(nanoseconds):
    return scaled(nanoseconds, [(1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1, "ns")])


def count(rate, unit):
    return scaled(rate, [(1e9, "G" + unit), (1e6, "M" + unit), (1e3, "k" + unit), (1, unit)])


def read(folder, since):
    """Every benchmark of the last run by its group and input, in the order in which they ran."""
    found = {}
    for file in sorted(folder.rglob("new/estimates.json"), key=lambda file: file.stat().st_mtime_ns):
        if file.stat().st_mtime_ns < since:
            continue
        what, measured = (json.loads((file.parent / name).read_text()) for name in ("benchmark.json", "estimates.json"))
        # A name that is no more than an input is the name.
        name = what["function_id"] or what["value_str"]
        of = what["value_str"] if what["function_id"] else None
        kind, amount = next(iter(what["throughput"].items())) if what["throughput"] else (None, 1)
        median = measured["median"]
        row = {
            "name": name,
            "of": of,
            "median": median["point_estimate"],
            "low": median["confidence_interval"]["lower_bound"],
            "high": median["confidence_interval"]["upper_bound"],
            "amount": amount,
            "unit": "B" if kind and kind.startswith("Bytes") else "",
        }
        found.setdefault(what["group_id"], {}).setdefault(of, []).append(row)
    return found


def line(row, floor):
    each = row["median"] / row["amount"]
    rate = count(1e9 / each, row["unit"] + "/s")
    if floor is None or floor is row:
        times = ""
    else:
        ratio = each / (floor["median"] / floor["amount"])
        times = f"{ratio:.{2 if ratio < 10 else 0}f} ×"
    name = row["name"] + (f" · {row['of']}" if row["of"] else "")
    spread = f"{time(row['low'])} – {time(row['high'])}"
    one = "" if row["amount"] == 1 or row["unit"] else time(each)
    return f"| {name} | {time(row['median'])} | {spread} | {one} | {rate} | {times} |"


def main():
    folder = pathlib.Path(sys.argv[1])
    since = pathlib.Path(sys.argv[2]).stat().st_mtime_ns if len(sys.argv) > 2 else 0
    for group, inputs in sorted(read(folder, since).items()):
        print(f"\n### {group}\n\n| what | median | 95 % | an element | a second | of its floor |\n|---|---:|---:|---:|---:|---:|")
        for rows in inputs.values():
            floor = next((row for row in rows if row["name"].startswith(FLOOR)), None)
            for row in rows:
                print(line(row, floor))


main()
