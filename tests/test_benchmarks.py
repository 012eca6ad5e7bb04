"""The benchmark runs and prints its table (how fast it is is not a test's business)."""

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "cam.py"


def test_cam_benchmark_prints_and_saves_ratios(tmp_path: Path) -> None:
    saved = tmp_path / "cam.md"
    options = ["--side", "32", "--classes", "1", "--batch", "1", "--rounds", "1", "--save"]
    command = [sys.executable, str(SCRIPT), *options, str(saved)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = re.findall(r"^\| ([abcd]) \w+ \|( [\d.]+ \|){4}$", done.stdout, re.MULTILINE)
    assert [row[0] for row in rows] == ["a", "b", "c", "d"]
    assert saved.read_text(encoding="utf-8").strip() == done.stdout.strip()
