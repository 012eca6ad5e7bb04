"""Sliders without Python behind them: the right frame for each position, by keyboard."""

import base64
import io
from itertools import product

import numpy as np
import pytest
from browsers import open_browser
from bs4 import BeautifulSoup
from PIL import Image

from micranet_helpers.plots import sliders
from micranet_helpers.plots.sliders import slide

CHOICES = {"digit": ["3", 'the "6" | <b>'], "layer": ["1a", "1b", "4b"]}


def draw(digit: str, layer: str) -> tuple[np.ndarray, str]:
    picture = np.zeros((4, 6, 3), np.uint8)
    picture[..., 0] = 100 * CHOICES["digit"].index(digit)
    picture[..., 1] = 100 * CHOICES["layer"].index(layer)
    return picture, f"map {layer} for {digit}"


def test_each_combination_has_its_frame_and_the_first_one_is_shown() -> None:
    frames = BeautifulSoup(slide(draw, **CHOICES), "html.parser").find_all("figure")
    for frame, values in zip(frames, product(*CHOICES.values()), strict=True):
        picture, text = draw(*values)
        png = base64.b64decode(frame.img["src"].removeprefix("data:image/png;base64,"))
        assert (np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) == picture).all()
        assert frame.figcaption.text == frame.img["alt"] == text
    assert [frame.has_attr("hidden") for frame in frames] == [False] + [True] * 5


def test_it_starts_where_it_is_told() -> None:
    page = BeautifulSoup(slide(draw, {"layer": "4b"}, **CHOICES), "html.parser")
    assert [frame.has_attr("hidden") for frame in page.find_all("figure")].index(False) == 2
    assert [slider["value"] for slider in page.find_all("input")] == ["0", "2"]
    assert [output.text for output in page.find_all("output")] == ["3", "4b"]


def test_each_slider_moves_by_keyboard_to_the_right_frame() -> None:
    errors = []
    with open_browser() as browser:
        page = browser.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        other = slide(draw, **CHOICES)  # a second one on the page stays as it is
        page.set_content(f"<div>{slide(draw, **CHOICES)}{other}</div>")
        # JupyterLab takes the arrow keys that reach it.
        page.evaluate("document.addEventListener('keydown', event => event.preventDefault())")
        digit, layer = (page.get_by_role("slider", name=name).first for name in CHOICES)
        shown = page.locator("figcaption").filter(visible=True)
        layer.press("End")
        assert shown.all_inner_texts() == ["map 4b for 3", "map 1a for 3"]
        digit.press("ArrowRight")
        assert shown.all_inner_texts() == [f"map 4b for {CHOICES['digit'][1]}", "map 1a for 3"]
        assert page.locator("output").first.inner_text() == CHOICES["digit"][1]
        assert digit.get_attribute("aria-valuetext") == CHOICES["digit"][1]
        layer.press("ArrowLeft")
        assert shown.first.inner_text() == f"map 1b for {CHOICES['digit'][1]}"
        assert page.locator("img").filter(visible=True).count() == 2
    assert not errors


@pytest.mark.parametrize("choices", [{}, {"digit": [], "layer": ["1a"]}])
def test_nothing_to_slide_over(choices: dict) -> None:
    with pytest.raises(ValueError, match="give each slider at least one value"):
        slide(draw, **choices)


def test_frames_that_would_make_a_page_slow_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sliders, "MOST_BYTES", 2**10)
    with pytest.raises(ValueError, match=r"The frames take \d.\d MiB: draw fewer or smaller ones"):
        slide(draw, **CHOICES)
