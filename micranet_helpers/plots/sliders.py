"""Make sliders for pages without Python: pictures are drawn beforehand, the slider picks one.

The browser's own sliders work in Jupyter, on Colab and offline, by keyboard and with screen
readers; those of ipywidgets have no accessible name.
"""

import base64
import io
import json
from collections.abc import Callable, Collection, Mapping
from html import escape
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Frame = tuple[NDArray[np.uint8], str]
"""A picture, uint8 (H, W, 3), and the sentence that describes it."""

MOST_BYTES = 2**20
"""Most bytes that the pictures of a page may take."""

# Runs in the browser when a slider moves; each frame knows the positions that it belongs to.
_MOVE = """
const box = this.closest('div'), sliders = [...box.querySelectorAll('input')];
const at = sliders.map(slider => slider.value).join();
const word = JSON.parse(this.dataset.words)[this.value];
this.setAttribute('aria-valuetext', word);
this.parentElement.nextElementSibling.value = word;
for (const frame of box.querySelectorAll('figure')) frame.hidden = frame.dataset.at != at;
"""


def slide(
    draw: Callable[..., Frame], start: Mapping[str, Any] | None = None, **choices: Collection[Any]
) -> str:
    """Draw a frame for every combination of some choices, and a slider for each choice.

    Parameters
    ----------
    draw : callable
        Gets one value of each choice, by name. Returns a picture, uint8 (H, W, 3), and the
        sentence below it, which is also its alternative text. Keep pictures small: the page
        enlarges their pixels.
    start : mapping, optional
        Name of a slider and the value at which it starts; by default its first one.
    **choices : collection
        Name of a slider and its values, from left to right.

    Returns
    -------
    str
        HTML, for ``IPython.display.HTML``. Without JavaScript the frame at the start is shown.

    Raises
    ------
    ValueError
        If there is nothing to choose from, or the pictures take more than 1 MiB.

    Examples
    --------
    >>> def draw(level):
    ...     return np.full((4, 4, 3), level, np.uint8), f"grey value {level}"
    >>> page = slide(draw, level=[0, 128, 255])
    """
    if not choices or not all(map(len, choices.values())):
        raise ValueError("There is nothing to slide over: give each slider at least one value.")
    begin = {name: [*values].index(start[name]) if start and name in start else 0
             for name, values in choices.items()}  # fmt: skip
    frames, places = [], product(*(range(len(values)) for values in choices.values()))
    for place, values in zip(places, product(*choices.values()), strict=True):
        picture, text = draw(**dict(zip(choices, values, strict=True)))
        frames.append(_frame(place, picture, text, place == (*begin.values(),)))
    if (size := sum(map(len, frames))) > MOST_BYTES:
        raise ValueError(f"The frames take {size / 2**20:.1f} MiB: draw fewer or smaller ones.")
    sliders = [_slider(name, [*map(str, values)], begin[name]) for name, values in choices.items()]
    # JupyterLab would take the arrow keys for itself.
    opening = '<div onkeydown="event.stopPropagation()" style="max-width: 32em">'
    return "\n".join([opening, *sliders, *frames, "</div>"])


def _slider(name: str, words: list[str], at: int) -> str:
    listed, word = escape(json.dumps(words, ensure_ascii=False)), escape(words[at])
    return (
        f'<p><label>{escape(name)} <input type="range" min="0" max="{len(words) - 1}" value="{at}" '
        f'autocomplete="off" style="width: 14em; vertical-align: middle" '
        f'aria-valuetext="{word}" data-words="{listed}" '
        f'oninput="{escape(" ".join(_MOVE.split()))}"></label> <output>{word}</output></p>'
    )


def _frame(place: tuple[int, ...], picture: NDArray[np.uint8], text: str, shown: bool) -> str:
    hidden = "" if shown else " hidden"
    url = data_url(_png(picture))
    return (
        f'<figure data-at="{",".join(map(str, place))}" style="margin: 0"{hidden}>'
        f'<img src="{url}" alt="{escape(text)}" style="width: 100%; image-rendering: pixelated">'
        f'<figcaption style="color: inherit">{escape(text)}</figcaption></figure>'
    )


def data_url(png: bytes) -> str:
    """Write a PNG file as the address of an image in a page."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _png(picture: NDArray[np.uint8]) -> bytes:
    data = io.BytesIO()
    # 256 colours are a third of the bytes; nobody tells the difference in a map.
    Image.fromarray(picture).quantize(256).save(data, "PNG", optimize=True)
    return data.getvalue()
