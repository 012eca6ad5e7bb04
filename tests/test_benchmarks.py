"""Benchmarks run and print their tables (how fast they are is not a test's business)."""

import re
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(name: str, save: Path, *options: str) -> str:
    command = [sys.executable, str(BENCHMARKS / name), *options, "--save", str(save)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert save.read_text(encoding="utf-8").strip() == done.stdout.strip()
    return done.stdout


def test_cam_benchmark_prints_and_saves_ratios(tmp_path: Path) -> None:
    options = ["--side", "32", "--classes", "1", "--batch", "1", "--rounds", "1"]
    table = run("cam.py", tmp_path / "cam.md", *options)
    rows = re.findall(r"^\| ([abcd]) \w+ \|( [\d.]+ \|){4}$", table, re.MULTILINE)
    assert [row[0] for row in rows] == ["a", "b", "c", "d"]


def test_crops_benchmark_prints_and_saves_rates(tmp_path: Path) -> None:
    options = ["--sides", "32", "--images", "2", "--seconds", "0.05", "--sizes"]
    table = run("crops.py", tmp_path / "crops.md", *options)
    rows = re.findall(r"^\| (uint8|float32) \| 32 \|( [\d.]+ \|){8}$", table, re.MULTILINE)
    assert [row[0] for row in rows] == ["uint8", "float32"]
