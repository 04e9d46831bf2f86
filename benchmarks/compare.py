"""``python -m benchmarks.compare OLD NEW``: what has become slower, measured by its share of the machine's limit.

A rate changes with the machine, its neighbours and its clock; the share of what the same machine did at best in the same run changes far
less. OLD and NEW are what ``gpuio bench --json`` or ``pytest benchmarks --benchmark-json`` wrote. Of a report of ``gpuio bench`` the
share per core is taken where there is one, of benchmarks the ``shares`` in their extra_info.

Exit code 0: nothing is slower by more than the tolerance; 1: something is; 2: the files cannot be compared.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.measure import table

#: Share of the share: what runs on a shared machine wander by.
TOLERANCE = 0.2


class NotComparable(Exception):
    """A file is of neither kind, or the two have nothing in common."""


def shares(report: Mapping[str, Any]) -> dict[str, float]:
    """Shares of limits by name."""
    if str(report.get("schema", "")).startswith("gpuio-bench-"):
        data = report["data"]
        of = f"{data['format']} {data['encoding']} {report['cache']['asked']} on {report['settings']['device'].partition(':')[0]}"
        found = {row["name"]: row["share_per_core"] or row["share"]["median"] for row in report["stages"] if row["share"]}
        return {f"{of}: {name}": share for name, share in found.items()}
    if "benchmarks" in report:
        return {f"{one['name']}: {name}": float(share) for one in report["benchmarks"]
                for name, share in one.get("extra_info", {}).get("shares", {}).items()}
    raise NotComparable("neither a report of gpuio bench nor one of pytest-benchmark")


def compare(old: Mapping[str, float], new: Mapping[str, float], tolerance: float = TOLERANCE) -> list[dict[str, object]]:
    """A row for everything that is in both, the worst first; ``verdict`` is "slower", "faster" or nothing.

    Raises
    ------
    NotComparable
        Nothing is in both.
    """
    both = [name for name in old if name in new]
    if not both:
        raise NotComparable("they have nothing in common")
    rows: list[dict[str, object]] = []
    for name in sorted(both, key=lambda name: new[name] / old[name]):
        ratio = new[name] / old[name]
        verdict = "slower" if ratio < 1 - tolerance else "faster" if ratio > 1 / (1 - tolerance) else ""
        rows.append({"share of the limit": name, "old": old[name], "new": new[name], "ratio": ratio, "verdict": verdict})
    return rows


def read(path: str) -> dict[str, float]:
    """Shares in a file.

    Raises
    ------
    NotComparable
        It cannot be read; the message names it.
    """
    try:
        with open(path, encoding="utf-8") as file:
            found = shares(json.load(file))
    except (OSError, ValueError, KeyError, AttributeError, TypeError, NotComparable) as error:
        raise NotComparable(f"{path}: {error}") from error
    return {name: share for name, share in found.items() if share > 0}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description="What has become slower, by its share of the limit.")
    parser.add_argument("old", metavar="OLD")
    parser.add_argument("new", metavar="NEW")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="of the share (default: %(default)s)")
    parser.add_argument("--all", action="store_true", help="show what has not changed as well")
    asked = parser.parse_args(arguments)
    try:
        old, new = read(asked.old), read(asked.new)
        rows = compare(old, new, asked.tolerance)
    except NotComparable as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    shown = [row for row in rows if row["verdict"] or asked.all]
    if shown:
        print(table(shown))
    for name in sorted(old.keys() - new.keys()):
        print(f"only in {asked.old}: {name}")
    slower = sum(row["verdict"] == "slower" for row in rows)
    print(f"{len(rows)} compared, {slower} slower by more than {asked.tolerance:.0%} of their share")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
