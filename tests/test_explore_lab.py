"""The explorer as its users meet it: the chapter in JupyterLab, in a real browser.

The tests use one explorer, one after the other. What each of them chooses there it chooses in a
session of its own, too: number, area and picture must be the same.
"""

import base64
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import papermill
import pytest
import torch
from browsers import open_browser, run_all_cells
from micranet_book import runner
from PIL import Image
from playwright.sync_api import Locator, Page, expect
from servers import serve_lab

from micranet_helpers import zoo
from micranet_helpers.explore import Choice, Session
from micranet_helpers.explore.picture import overlay, overview, summary, tiles
from micranet_helpers.explore.widgets import OVERVIEW
from micranet_helpers.lessons.digits import SIDE
from micranet_helpers.networks.unet import UNet
from micranet_helpers.plots.png import COLOURS

BOOK = Path(__file__).parents[1] / "book"
pytestmark = [pytest.mark.browser, pytest.mark.slow]
TIMEOUT = 120_000  # ms; a busy machine trains slowly
PICTURE = 10  # the last of the explorer's images
BYTES = """async img => btoa(String.fromCharCode(
    ...new Uint8Array(await (await fetch(img.src)).arrayBuffer())))"""


@dataclass
class Lab:
    """The explorer on the page, and what a session says of the same choices."""

    page: Page
    folder: Path
    session: Session
    problems: list[str] = field(default_factory=list)

    def image(self, number: int) -> Locator:
        """0 is the overview, 1 to 8 are the maps, 9 is the combined map, 10 shows the objects."""
        return self.page.locator("img.widget-image").nth(number)

    def pixels(self, number: int) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(
            self.image(number).evaluate(BYTES)))).convert("RGB"))  # fmt: skip

    def slider(self, name: str) -> Locator:
        label = self.page.get_by_text(name, exact=True)
        return self.page.locator(".widget-slider", has=label).get_by_role("slider")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder, home = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("home")
    values = runner.load_profile(BOOK, "smoke")[1]["explore"]
    papermill.execute_notebook(BOOK / "explore.ipynb", folder / "explore.ipynb", values,
                               prepare_only=True, progress_bar=False)  # fmt: skip
    with serve_lab(folder, home) as url, open_browser() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(TIMEOUT)
        expect.set_options(timeout=TIMEOUT / 4)
        files = folder / "explored"
        place = {"top": SIDE // 2, "left": SIDE // 2}  # as the chapter has it
        session = Session(files / "digits.hdf5", "MICRANet", files / "canvas.png", **place)
        lab = Lab(page, folder, session)
        listen(page, url, lab.problems)
        page.goto(f"{url}/lab/tree/explore.ipynb")
        run_all_cells(page)
        page.locator("img.widget-image").last.wait_for(state="attached")
        yield lab


def listen(page: Page, url: str, problems: list[str]) -> None:
    """Refuse what lies outside, and note all complaints."""
    page.route(lambda asked: not asked.startswith((url, "data:", "blob:")), lambda route: (
        problems.append(f"asks for {route.request.url}"), route.abort()))  # fmt: skip
    # The badge, and pictures from the repository, which pages take from beside them.
    page.route("**/colab-badge.svg", lambda route: route.fulfill(
        path=BOOK / "images/open-in-colab.svg"))  # fmt: skip
    page.route("**/raw/main/book/images/*", lambda route: route.fulfill(
        path=BOOK / "images" / route.request.url.rpartition("/")[2]))  # fmt: skip
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda line: line.type == "error" and problems.append(line.text))


def test_the_whole_chapter_runs_in_jupyterlab(lab: Lab) -> None:
    with lab.page.expect_response(lambda got: got.request.method == "PUT" and got.ok):
        lab.page.keyboard.press("Control+s")
    cells = nbformat.read(lab.folder / "explore.ipynb", as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert not [out for cell in code for out in cell.outputs if out.output_type == "error"]


def test_the_explorer_is_drawn_whole(lab: Lab) -> None:
    assert lab.page.locator("button[title^='crop here']").count() == 100
    assert lab.page.locator("[title='null']:visible").count() == 0, "a label without a tooltip"
    shown = lab.image(0).bounding_box()
    for share, place in ((5, 0), (95, 0.9)):
        where = f"button[title='crop here: {share}% down, {share}% right']"
        cell = lab.page.locator(where).bounding_box()
        assert abs(cell["x"] - shown["x"] - place * shown["width"]) < 3, "it lies on the picture"
        assert abs(cell["y"] - shown["y"] - place * shown["height"]) < 3
        assert abs(cell["height"] - shown["height"] / 10) < 1


@contextmanager
def new_picture(lab: Lab) -> Iterator[None]:
    """What is done in the block shows a new picture: the one that the session gives now."""
    before = lab.image(PICTURE).get_attribute("src")
    yield
    expect(lab.image(PICTURE)).not_to_have_attribute("src", before)
    expect(lab.page.get_by_text(summary(lab.session), exact=True)).to_be_visible()
    np.testing.assert_array_equal(lab.pixels(PICTURE), overlay(lab.session, 0.4))
    expect(lab.page.get_by_text("⚠")).to_have_count(0)


def press(name: str, key: str) -> Callable[[Lab], None]:
    return lambda lab: lab.slider(name).press(key)


def choose(name: str, value: str) -> Callable[[Lab], Any]:
    return lambda lab: lab.page.get_by_label(name, exact=True).select_option(value)


def tick(name: str, yes: bool) -> Callable[[Lab], None]:
    return lambda lab: lab.page.get_by_label(name, exact=True).set_checked(yes)


ALL = Choice("", "", "").layers
ACTIONS = {
    "smoothing": (press("smoothing, px", "ArrowRight"), {"sigma": 1.5}),
    "threshold": (choose("threshold", "percentile"), {"threshold": "percentile"}),
    "untick": (tick("1a (1 : 1)", False), {"layers": ALL[1:]}),
    "tick": (tick("1a (1 : 1)", True), {"layers": ALL}),
}  # fmt: skip


@pytest.mark.parametrize("name", ACTIONS)
def test_a_choice_in_the_browser_gives_what_a_session_gives(lab: Lab, name: str) -> None:
    act, changes = ACTIONS[name]
    with new_picture(lab):
        lab.session.choose(**changes)
        act(lab)


def test_another_class_brings_its_maps(lab: Lab) -> None:
    with new_picture(lab):
        lab.session.choose(cls=[*lab.session.predicted][1])
        lab.page.get_by_label("class", exact=True).select_option(index=1)
    np.testing.assert_array_equal(lab.pixels(1), COLOURS[tiles(lab.session.maps)[0]])


def test_evidence_marks_what_a_session_marks_and_disables_what_is_for_maps(lab: Lab) -> None:
    for how, there in (("evidence", False), ("pca", True)):
        with new_picture(lab):
            lab.session.choose(cls=lab.session.cls, how=how)
            lab.page.get_by_label("combine by", exact=True).select_option(how)
        expect(lab.page.get_by_label("2a (1 : 2)", exact=True)).to_be_enabled(enabled=there)
        expect(lab.page.get_by_label("threshold", exact=True)).to_be_enabled(enabled=there)
        expect(lab.page.get_by_text("has a level of its own: layers")).to_have_count(int(not there))


def test_a_click_on_the_image_moves_the_crop_there(lab: Lab) -> None:
    box = lab.image(0).bounding_box()
    side, image = lab.session.place[2], lab.session.raw.shape[1]
    cls = lab.session.cls
    with new_picture(lab):
        lab.page.mouse.click(box["x"] + 0.63 * box["width"], box["y"] + 0.37 * box["height"])
        top, left = (round(share * image - side / 2) for share in (0.35, 0.65))  # of the cell
        lab.session.choose(top=top, left=left, cls=None)
        lab.session.choose(cls=cls if cls in lab.session.predicted else lab.session.cls)
    np.testing.assert_array_equal(lab.pixels(0), overview(lab.session, OVERVIEW))


def test_a_wrong_path_gives_a_sentence_and_no_traceback(lab: Lab) -> None:
    path = lab.page.get_by_label("image", exact=True)
    good = path.input_value()
    path.fill("nowhere.tif")
    path.press("Enter")
    expect(lab.page.get_by_text("⚠ There is no file nowhere.tif: check the path.")).to_be_visible()
    assert lab.image(PICTURE).evaluate("img => img.naturalWidth") == 1, "blank"
    assert lab.page.get_by_text("Traceback").count() == 0
    with new_picture(lab):
        path.fill(good)
        path.press("Enter")


def test_a_u_net_is_explored_without_maps(lab: Lab) -> None:
    torch.manual_seed(0)
    zoo.save(lab.folder / "unet.hdf5", "UNet", UNet(1, 2, depth=3, filters=4).eval(), {})
    image = lab.session.choice.image
    with new_picture(lab):
        lab.session = Session(lab.folder / "unet.hdf5", "UNet", image, threshold="percentile")
        path = lab.page.get_by_label("zoo", exact=True)
        path.fill("unet.hdf5")
        path.press("Enter")
    assert lab.page.get_by_label("combine by", exact=True).input_value() == "self-trained"
    expect(lab.page.get_by_text("self-trained has a level of its own")).to_be_visible()
    assert lab.image(1).evaluate("img => img.naturalWidth") == 1, "blank: there are no maps"


def test_the_browser_has_nothing_to_complain_about(lab: Lab) -> None:
    assert not lab.problems
