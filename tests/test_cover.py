"""The picture on the first page."""

import importlib.util
from pathlib import Path

import pytest
import torch
from conftest import random_model
from PIL import Image

SCRIPT = Path(__file__).parents[1] / "book" / "images" / "cover.py"


@pytest.mark.slow
def test_cover_can_be_drawn_again(tmp_path: Path, capsys) -> None:
    spec = importlib.util.spec_from_file_location("cover", SCRIPT)
    cover = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cover)
    model = random_model(num_classes=10)
    model.linear1.bias.data += 1000 * (torch.arange(10) == 3) - 500  # predicts 3 everywhere
    cover.draw(model, tmp_path / "cover.png")
    committed = SCRIPT.with_suffix(".png")
    with Image.open(tmp_path / "cover.png") as drawn, Image.open(committed) as shown:
        assert drawn.size == shown.size
    assert committed.stat().st_size < 200_000
    assert capsys.readouterr().out.count("pixel F1") == 2
