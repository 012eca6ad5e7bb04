"""What would a large study cost? python benchmarks/study.py [--slides 1000] [--save FILE]

Multiplies core seconds a megapixel, as benchmarks/speed.py and benchmarks/large.py have measured
them (book/results/speed.md and large.md), by the pixels of all slides; those of the network by the
pixels of its tiles, which overlap. Each of torch's threads has a core.
"""

import argparse
import re
from pathlib import Path

from table import report

from micranet_helpers.predict.large import STRIDE, TILE

RESULTS = Path(__file__).parents[1] / "book" / "results"
WAYS = {"evidence": "network, evidence", "U-Net": "network, self-trained U-Net"}
OVERLAP = (TILE / STRIDE) ** 2  # pixels of the tiles for one of the image
PYRAMID = 4 / 3  # levels of half the side, a quarter of the pixels each


def rows_of(name: str) -> list[list[str]]:
    """Read the rows of a measured table, without its title."""
    lines = (RESULTS / name).read_text(encoding="utf-8").splitlines()
    table = [line.strip("| ").split("|") for line in lines if "|" in line]
    return [[cell.strip() for cell in row] for row in table[2:]]


def threads_of(name: str) -> int:
    """Read how many threads a table was measured with."""
    return int(re.search(r"(\d+) threads", (RESULTS / name).read_text(encoding="utf-8"))[1])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slides", type=int, default=1000)
    parser.add_argument("--side", type=int, default=20_000, help="px of a slide")
    parser.add_argument("--save", type=Path, help="write the table to this file, too")
    args = parser.parse_args()
    area = args.side**2 / 1e6
    costs = {f"{WAYS[way]}, {kind}": OVERLAP * threads_of("speed.md") * float(ms) / 1000
             for way, kind, ms, *_ in rows_of("speed.md")
             if way in WAYS and "compiled" not in kind}  # fmt: skip
    alone = threads_of("large.md") * float(rows_of("large.md")[-1][3])
    costs["all else: read, join objects, write"] = alone
    rows = [["step", "core s a megapixel", "core minutes a slide", "core hours in all"]]
    for step, cost in costs.items():
        minutes = cost * area / 60
        rows.append([step, f"{cost:.2f}", f"{minutes:.0f}", f"{minutes * args.slides / 60:.0f}"])
    sizes = {"images, RGB of 8 bits": 3, "scores of a class": 4 * PYRAMID,
             "numbers of its objects": 4 * PYRAMID}  # fmt: skip
    stored = "; ".join(
        f"{what} {each * area / 1e3:.1f} GB a slide, {each * area * args.slides / 1e6:.1f} TB"
        for what, each in sizes.items()
    )
    head = (f"{args.slides:,} slides of {args.side:,}² px, on the machine of the two tables. "
            f"Storage before compression: {stored}.")  # fmt: skip
    report(head, rows, args.save)


if __name__ == "__main__":
    main()
