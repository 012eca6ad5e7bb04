"""The labeller as its users meet it: in JupyterLab, in a real browser, by mouse and by keys."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import numpy as np
import pytest
import tifffile
from axe_playwright_python.sync_playwright import Axe
from browsers import open_browser, run_all_cells
from playwright.sync_api import Page, expect
from servers import serve_lab
from test_explore_lab import listen

from micranet_helpers import zoo
from micranet_helpers.data.own.answers import NO, UNKNOWN, YES, Question
from micranet_helpers.label import answers
from micranet_helpers.label.widget import Labeller

pytestmark = [pytest.mark.browser, pytest.mark.slow]
TIMEOUT = 120_000  # ms; a busy machine is slow
CELL = """
import os
from pathlib import Path
from micranet_helpers import zoo
from micranet_helpers.label.widget import Labeller
Path("pid").write_text(str(os.getpid()))
usage = zoo.Usage(("disc", "dirt"), "minmax", side=32)
labeller = Labeller("images", usage, "answers.csv", who="ann")
labeller
"""


HOST = """async ([esm, css, view]) => {
  const here = new Blob([esm], { type: "text/javascript" });
  const { default: widget } = await import(URL.createObjectURL(here));
  document.head.append(Object.assign(document.createElement("style"), { textContent: css }));
  const acts = new Set();
  window.sent = [];
  const model = new Proxy({
    get: (name) => (name === "view" ? view : undefined),
    send: (content) => sent.push(content),
    on: (event, act) => acts.add(act),
    off: (event, act) => acts.delete(act),
  }, { get: (api, name) => api[name] ?? (() => { throw Error(`${name} is no part of it`); }) });
  window.change = (now) => { view = now; acts.forEach((act) => act()); };
  const stop = await widget.render({ model, el: document.querySelector("main") });
  window.stop = () => { stop(); return acts.size; };
}"""


@dataclass
class Lab:
    page: Page
    folder: Path
    problems: list[str] = field(default_factory=list)

    def given(self, cls: str = "disc") -> dict[Question, str]:
        return answers.of_class(answers.read(self.folder / "answers.csv"), cls)

    def waits_for(self, text: str) -> None:
        """The widget has taken in what was done."""
        expect(self.page.get_by_role("status").get_by_text(text)).to_be_visible()

    def button(self, name: str):
        return self.page.get_by_role("button", name=name, exact=True)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder, home = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("home")
    (folder / "images").mkdir()
    for n in range(3):
        pixels = np.random.default_rng(n).integers(0, 255, (128, 128), np.uint8)
        tifffile.imwrite(folder / "images" / f"{n}.tif", pixels)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL.strip())])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3 (ipykernel)"}
    nbformat.write(notebook, folder / "label.ipynb")
    with serve_lab(folder, home) as url, open_browser() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 1400})
        page.set_default_timeout(TIMEOUT)
        expect.set_options(timeout=TIMEOUT / 4)
        lab = Lab(page, folder)
        listen(page, url, lab.problems)
        page.goto(f"{url}/lab/tree/label.ipynb")
        run_all_cells(page)
        page.get_by_role("group", name="Labeller").wait_for()
        yield lab


def test_clicks_lead_from_the_whole_image_to_a_crop_and_to_the_next_image(lab: Lab) -> None:
    for n, word in enumerate((YES, YES, NO, UNKNOWN), 1):
        lab.button(word).click()
        lab.waits_for(f"{n} answers, {min(n, 2)} yes, about 0 minutes")
    boxes = [
        *(Question("0.tif", 0, 0, side) for side in (128, 64, 32)),
        Question("1.tif", 0, 0, 128),
    ]
    assert lab.given() == dict(zip(boxes, (YES, YES, NO, UNKNOWN), strict=True))


def test_keys_answer_and_take_back_and_leave_the_notebook_alone(lab: Lab) -> None:
    before = lab.given()
    lab.page.get_by_role("group", name="Labeller").focus()
    for n, key in enumerate("yn", len(before) + 1):
        lab.page.keyboard.press(key)
        lab.waits_for(f"{n} answers")
    assert [*lab.given().values()][-2:] == [YES, NO]
    for n in (len(before) + 1, len(before)):
        lab.page.keyboard.press("z")
        lab.waits_for(f"{n} answers")
    assert lab.given() == before
    # y and z would make another cell of it, and undo, in JupyterLab.
    assert lab.page.locator(".jp-CodeCell").count() == 1


def test_focus_goes_through_the_controls_in_order(lab: Lab) -> None:
    lab.page.get_by_label("class").focus()
    seen = []
    for _ in range(9):
        lab.page.keyboard.press("Tab")
        seen.append(lab.page.evaluate(
            "document.activeElement.textContent || document.activeElement.type"))  # fmt: skip
    assert seen == ["grid of crops", "zoom in+", "zoom out-", "range", "measure an object", "yesy",
                    "non", "cannot tellu", "undoz"]  # fmt: skip


def test_another_class_has_questions_of_its_own(lab: Lab) -> None:
    lab.page.get_by_label("class").select_option("dirt")
    expect(lab.page.get_by_text("Does the frame show “dirt”? 0.tif, 128 px")).to_be_visible()
    lab.button(NO).click()
    expect(lab.page.get_by_text("Does the frame show “dirt”? 1.tif, 128 px")).to_be_visible()
    assert lab.given("dirt") == {Question("0.tif", 0, 0, 128): NO}
    lab.page.get_by_label("class").select_option("disc")


def test_a_grid_of_crops_is_answered_at_once(lab: Lab) -> None:
    before = lab.given()
    lab.button("grid of crops").click()
    crops = lab.page.locator(".pictures button")
    expect(crops).to_have_count(12)
    crops.nth(2).click()
    crops.nth(5).press("Enter")
    lab.button("save these: marked yes, others no").click()
    lab.waits_for(f"{len(before) + 13} answers")
    new = [word for box, word in lab.given().items() if box not in before]
    assert new == [YES if n in (2, 5) else NO for n in range(12)]
    lab.button("undo").click()
    lab.waits_for(f"{len(before) + 1} answers")
    lab.button("grid of crops").click()
    expect(crops).to_have_count(0)


def test_zoom_and_contrast_change_the_picture(lab: Lab) -> None:
    picture = lab.page.locator(".pictures img")
    src = picture.get_attribute("src")
    lab.button("zoom out").click()
    expect(picture).not_to_have_attribute("src", src)
    lab.page.get_by_label("contrast").press("ArrowRight")
    assert picture.evaluate("img => img.style.filter") == "contrast(1.1)"


def test_two_clicks_on_an_object_give_the_size_of_crops(lab: Lab) -> None:
    lab.button("measure an object").click()
    box = lab.page.locator(".pictures .picture").bounding_box()
    shown = lab.page.locator(".ask")
    for share in (0.25, 0.5):
        lab.page.mouse.click(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
        if share == 0.25:
            expect(shown).to_contain_text("1 of 2")
    expect(lab.page.get_by_text("Objects of 64 px: take crops of 192 px.")).to_be_visible()


def test_training_without_enough_answers_is_a_sentence(lab: Lab) -> None:
    lab.button("Train now").click()
    lab.waits_for("Answer yes about crops with disc in two images or more.")
    expect(lab.button("Train now")).to_be_enabled()


def test_the_widget_suits_readers_of_all_kinds(lab: Lab) -> None:
    found = Axe().run(lab.page, context=".micranet-labeller").response
    assert not [(fault["id"], node["html"]) for fault in found["violations"]
                for node in fault["nodes"]]  # fmt: skip


def test_a_killed_kernel_loses_no_answer(lab: Lab) -> None:
    before = lab.given()
    os.kill(int((lab.folder / "pid").read_text()), signal.SIGKILL)
    assert lab.given() == before and len(before) == 4
    lab.page.get_by_text("Kernel Restarting").wait_for()
    lab.page.get_by_role("button", name="Ok").click()
    run_all_cells(lab.page)
    lab.waits_for("5 answers, 2 yes")
    expect(lab.page.get_by_text("Does the frame show “disc”? 1.tif, 64 px")).to_be_visible()


def test_the_browser_has_nothing_to_complain_about(lab: Lab) -> None:
    assert not lab.problems


@pytest.mark.parametrize("width", [1280, 390])
def test_the_front_end_needs_nothing_but_the_interface_of_anywidget(lab, tmp_path, width) -> None:
    """VS Code and Colab give it that, in pages of their own, which may be dark or narrow."""
    tifffile.imwrite(tmp_path / "a.tif", np.eye(128, dtype=np.uint8))
    usage = zoo.Usage(("disc",), "minmax", side=32)
    labeller = Labeller(tmp_path, usage, tmp_path / "answers.csv", who="ann")
    page, asked = lab.page.context.browser.new_page(viewport={"width": width, "height": 900}), []
    page.on("request", lambda request: asked.append(request.url[:5]))
    page.set_content("<!doctype html><html lang=en><title>a host</title><main></main>"
                     "<style>body {background: #111; color: #eee}</style>")  # fmt: skip
    page.evaluate(HOST, [str(Labeller._esm), str(Labeller._css), labeller.view])
    root = page.get_by_role("group", name="Labeller")
    for key in "yn":
        root.press(key)
        labeller.act(**page.evaluate("sent.pop()"))
        page.evaluate("view => change(view)", labeller.view)
    expect(page.get_by_text("2 answers, 1 yes")).to_be_visible()
    assert not Axe().run(page, context="main").response["violations"]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("stop()") == 0, "it still listens"
    page.close()
    assert {*asked} <= {"data:", "blob:"}
