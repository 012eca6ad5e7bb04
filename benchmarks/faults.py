"""What does the book survive? python benchmarks/faults.py [--short] [--save FILE]

Runs the tests of faults, those of make test-faults, and counts: cases, kills, seconds.
"""

import argparse
import ast
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from table import report

from micranet_helpers.files.provenance import provenance

ROOT = Path(__file__).parents[1]


def run(report_file: Path, short: bool, more: list[str]) -> None:
    """Run the tests; what pytest says goes to stderr."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "faults", f"--junitxml={report_file}"]
    length = {} if short else {"MICRANET_FAULTS": "1"}
    subprocess.run([*command, *more], cwd=ROOT, env=os.environ | length, stdout=sys.stderr)


def rows(report_file: Path) -> Iterator[list[str]]:
    """Sum up the cases of each file of tests, whose first line says what is tested."""
    cases: dict[str, list[ElementTree.Element]] = {}
    for case in ElementTree.parse(report_file).iter("testcase"):
        cases.setdefault(case.get("classname").rpartition(".")[2], []).append(case)
    for name, found in cases.items():
        text = ast.get_docstring(ast.parse((ROOT / "tests" / f"{name}.py").read_text("utf-8")))
        count = len(found) - sum(case.find("skipped") is not None for case in found)
        kills = sum(int(each.get("value")) for case in found for each in case.iter("property"))
        bad = sum(case.find(kind) is not None for case in found for kind in ("failure", "error"))
        slowest = max(float(case.get("time")) for case in found)
        yield [text.splitlines()[0].rstrip("."), f"`{name}`", str(count), str(kills or ""),
               str(bad), f"{slowest:.1f}"]  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", type=Path, help="write the table to this file, too")
    parser.add_argument("--short", action="store_true", help="as make test runs them")
    args, more = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        run(file := Path(folder, "report.xml"), args.short, more)
        body = [*rows(file)]
    made = provenance()
    cases, kills, bad = (sum(int(row[n] or 0) for row in body) for n in (2, 3, 4))
    report(
        f"{made['date'][:10]}, {made['device']}, commit {made['commit']}, as make "
        f"{'test' if args.short else 'test-faults'} runs them: {cases} cases, "
        f"{kills} kills, {bad} failures.",
        [["what", "tests", "cases", "kills", "failures", "slowest, s"], *body], args.save,
    )  # fmt: skip


if __name__ == "__main__":
    main()
