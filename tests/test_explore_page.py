"""The explorer as a browser draws it, without a network and without a kernel."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from browsers import need, open_browser
from conftest import random_model
from ipywidgets.embed import embed_data, escape_script
from micranet_book import offline
from servers import serve_folder

from micranet_helpers import zoo
from micranet_helpers.explore.widgets import Explorer, explore

PAGE = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Explorer</title>
<link rel="icon" href="data:,"><script src="require.js"></script><script src="embed-amd.js">
</script><script type="application/vnd.jupyter.widget-state+json">STATE</script>
</head><body><script type="application/vnd.jupyter.widget-view+json">VIEW</script>
</body></html>"""


def write_page(folder: Path, explorer: Explorer) -> None:
    data = embed_data(views=[explorer])
    text = PAGE
    for name, content in (("STATE", data["manager_state"]), ("VIEW", data["view_specs"][0])):
        text = text.replace(name, escape_script(json.dumps(content)))
    (folder / "index.html").write_text(text)


@pytest.mark.browser
@pytest.mark.parametrize("width", [1100, 390])
def test_explorer_is_drawn_whole(tmp_path: Path, width: int) -> None:
    need("npm")
    model = random_model(num_classes=1)
    model.linear1.bias.data += 100  # predicts its class
    zoo.save(tmp_path / "zoo.hdf5", "MICRANet", model, {"size": 40})
    image = np.random.default_rng(0).integers(0, 255, (56, 64)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "field.tif", image)
    explorer = explore(tmp_path / "zoo.hdf5", tmp_path / "field.tif")
    assert not explorer.message.value
    offline.fetch_scripts(tmp_path)
    write_page(tmp_path / "static", explorer)
    problems = []
    with serve_folder(tmp_path / "static") as url, open_browser() as browser:
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.route(lambda asked: not asked.startswith((url, "blob:")), lambda route: route.abort())
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda line: line.type == "error" and problems.append(line.text))
        page.goto(f"{url}/index.html")
        pictures = "[...document.querySelectorAll('img.widget-image')]"
        page.wait_for_function(f"{pictures}.length == 11")
        page.wait_for_function(f"{pictures}.every(img => img.complete && img.naturalWidth > 0)")
        assert page.locator("button[title^='crop here']").count() == 100
        assert page.get_by_text("save recipe", exact=True).is_visible()
        assert page.locator("[title='null']:visible").count() == 0, "a label without a tooltip"
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        shown = page.locator("img.widget-image").first.bounding_box()
        for share, corner in ((5, shown), (95, {"x": shown["x"] + 0.9 * shown["width"],
                                                "y": shown["y"] + 0.9 * shown["height"]})):
            where = f"button[title='crop here: {share}% down, {share}% right']"
            cell = page.locator(where).bounding_box()
            assert all(abs(cell[axis] - corner[axis]) < 3 for axis in "xy"), "it lies on top"
            assert abs(cell["height"] - shown["height"] / 10) < 1
    assert not [text for text in problems if "Failed to load resource" not in text]
