"""``python -m bench``: run measurements, print a table, keep JSON and a picture."""

from __future__ import annotations

import argparse
from pathlib import Path

import trio

from bench import apply, engine, http, operating, postgres, protocols
from bench.report import Report
from ha.cli.garbage import collect_seldom

PARTS = ("engine", "http", "protocols", "postgres", "apply", "operating")
OUT = Path(__file__).parent / "out"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measures ha beside the floor of each number, in the same run: bare APSW,"
        " bare JetStream, a trivial handler on the same HTTP server. Ratios tell more than rates,"
        " since machines differ.",
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (all)")
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each rate (3)")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for bench.json, bench.svg")
    arguments = parser.parse_args()
    parts = arguments.parts or PARTS
    for part in parts:
        if part not in PARTS:
            parser.error(f"no such part: {part}; there are {', '.join(PARTS)}")
    report = Report()
    if "engine" in parts:
        collect_seldom()  # as `ha` does
        trio.run(engine.run, report, arguments.seconds)
    if "http" in parts:
        http.run(report, arguments.seconds)
    if "protocols" in parts:
        protocols.run(report, arguments.seconds)
    if "postgres" in parts:
        postgres.run(report, arguments.seconds)
    if "apply" in parts:
        apply.run(report, arguments.seconds)
    if "operating" in parts:
        operating.run(report, arguments.seconds)
    print(report.table())
    report.write(arguments.out)
    print(f"\nwritten: {arguments.out / 'bench.json'}, {arguments.out / 'bench.svg'}")


main()
