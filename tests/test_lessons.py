"""Code that a lesson shows does what the package does."""

from pathlib import Path
from typing import Any

import nbformat
import torch
from conftest import random_images, random_model

from micranet_helpers import recipes
from micranet_helpers.evidence import evidence
from micranet_helpers.segment import gaussian, otsu, segment

BOOK = Path(__file__).parents[1] / "book"


def run_cell(chapter: str, beginning: str, **names: Any) -> dict[str, Any]:
    """Run the one code cell of a chapter that begins so, and give the names it makes."""
    cells = nbformat.read(BOOK / f"{chapter}.ipynb", as_version=4).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    (source,) = (text for text in code if text.startswith(beginning))
    exec(source, names)
    return names


def test_evidence_of_the_chapter_em() -> None:
    model, few = random_model(num_classes=1), random_images(2, 1, 128, 128)
    beginning = "with torch.no_grad():\n    activations"
    names = run_cell("em", beginning, torch=torch, model=model, few=few)
    expected, _ = evidence(model, few, shifts=(0,))
    inner = slice(None, -5)  # the far borders are mirrored in one of them only
    torch.testing.assert_close(
        names["strength"][:, :, inner, inner], expected[:, :, ::8, ::8][:, :, inner, inner]
    )


def test_foreground_of_the_chapter_actin() -> None:
    model, images = random_model(num_classes=2, seed=1), random_images(1, 1, 96, 96)
    images = gaussian(images, 4)
    given = {"model": model, "device": "cpu", "evidence": evidence, "gaussian": gaussian}
    names = run_cell("actin", "@torch.no_grad()\ndef look", torch=torch, otsu=otsu, **given)
    strength, inside = names["look"](images[0].numpy())
    smoothed = names["smooth"](strength, inside, 8)
    level = smoothed[:, inside[0]].median(1).values
    recipe = recipes.in_foreground(8, level.tolist())
    expected = recipe.mask(strength[None], images)[0]
    assert torch.equal(smoothed >= level[:, None, None], expected)
    assert expected.any() and not expected[:, inside[0]].all()
    assert segment(model, images, recipe, thresholds=[0, 0]).masks.any()
