"""The page `try` in Chromium, from a folder of its own: the numbers are those of Python."""

import csv
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import roifile
import tifffile
import torch
from axe_playwright_python.sync_playwright import Axe
from browsers import leave_out, open_browser
from conftest import random_images, random_model
from micranet_book import browser, npm
from numpy.typing import NDArray
from PIL import ExifTags, Image
from servers import Faults, serve_faults, serve_folder
from skimage.draw import polygon2mask

from micranet_helpers.files.images import read_image, read_mask
from micranet_helpers.maps import combine, gaussian, grad_cam, otsu, percentile, triangle
from micranet_helpers.maps.detect import pieces, table
from micranet_helpers.maps.tiles import over_tiles, padded
from micranet_helpers.networks.micranet import LAYERS
from micranet_helpers.zoo import Usage
from micranet_helpers.zoo.export import to_onnx

pytestmark = [pytest.mark.slow, pytest.mark.browser]

STATIC = Path(__file__).parents[1] / "book" / "_static" / "try"
MODEL = random_model(1, 2, seed=1)
CLASSES = ["odd", "even"]
SIDE = 64  # of a tile, px
DEEP = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x09\0\0\0\x09\x10" + bytes(40)  # cut short, 16 bits
ROUNDING = 1e-3  # share of pixels that may fall on the other side of the threshold


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small seeded network with its maps."""
    path = tmp_path_factory.mktemp("network") / "small.onnx"
    to_onnx(path, MODEL, CLASSES, maps="predicted", usage=Usage(CLASSES, side=SIDE))
    return path


@pytest.fixture(scope="module")
def site(onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page without the theme around it, as the build writes it."""
    folder = tmp_path_factory.mktemp("site")
    place = folder / browser.PLACE
    place.mkdir(parents=True)
    for file in STATIC.glob("*.*"):
        (place / file.name).write_bytes(file.read_bytes())
    browser.write(place, [])
    about = json.loads((place / "networks.json").read_text())
    if about["runtimes"] is None:
        leave_out(f"{npm.registry()} cannot be reached")
    (place / "small.onnx").write_bytes(onnx.read_bytes())
    browser.write_picture(place / "small.png", pixels(120, 150))
    about["networks"] = [{
        "id": "small", "name": "small", "file": "small.onnx", "classes": CLASSES, "side": SIDE,
        "scaling": "fixed", "sigma": 1, "area": 4, "pixel_size_um": 0.5,
        "sample": {"file": "small.png", "name": "noise"},
    }]  # fmt: skip
    (place / "networks.json").write_text(json.dumps(about))
    head = '<title>Try</title><link rel="stylesheet" href="_static/try/try.css">'
    head += '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    controls = (STATIC / "controls.html").read_text()
    page = f'<!DOCTYPE html><html lang="en"><head>{head}</head><body><main><h1>Try</h1>{controls}'
    (folder / "try.html").write_text(browser.policy(page + "</main></body></html>"))
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with serve_folder(site) as url:
        yield f"{url}/try.html"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with open_browser() as started:
        yield started


@pytest.fixture
def page(chromium: Any, address: str) -> Iterator[Any]:
    """The page with its runtime and the network."""
    opened = loaded(chromium, address)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def same_page(chromium: Any, address: str) -> Any:
    """One for several tests, which go on with it."""
    return loaded(chromium, address)


def loaded(chromium: Any, address: str) -> Any:
    opened = chromium.new_page()
    opened.set_default_timeout(120_000)
    load(opened, address)
    return opened


def load(page: Any, address: str) -> None:
    page.goto(address)
    page.get_by_role("button", name="Load the runtime").click()
    expect(page.get_by_role("button", name="noise")).to_be_enabled()


def expect(locator: Any) -> Any:
    from playwright.sync_api import expect

    expect.set_options(timeout=120_000)
    return expect(locator)


def pixels(height: int, width: int, channels: int = 1, high: int = 256) -> NDArray[Any]:
    """Smooth noise (C, H, W) of 8 bits, or of 16."""
    noise = gaussian(random_images(channels, height, width), 3)
    noise = (noise - noise.min()) / (noise.max() - noise.min())
    return (noise * (high - 1)).numpy().astype(np.uint8 if high == 256 else np.uint16)


def explained(image: NDArray[np.float32], side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute maps (K, 8, H, W) and logits (K,) as the page does."""
    images, (height, width) = torch.from_numpy(image)[None], image.shape[1:]

    def score(tiles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        cams = grad_cam(MODEL, tiles, lambda logits: logits > 0)
        return cams.maps.flatten(1, 2), cams.logits

    if max(height, width) <= side:
        maps, logits = score(padded(images, 8))
    else:
        maps, logits = over_tiles(images, score, side, side * 3 // 32 * 8)
    return maps[0, :, :height, :width].unflatten(0, (-1, 8)), logits[0]


def take(page: Any, path: Path) -> None:
    page.get_by_label("or your own picture").set_input_files(path)


def save(page: Any, name: str, folder: Path) -> Path:
    with page.expect_download() as got:
        page.get_by_role("button", name=name).click()
    path = folder / got.value.suggested_filename
    got.value.save_as(path)
    return path


def summary(page: Any) -> Any:
    return page.locator("#try-summary:not(:empty)")


def message(page: Any, text: str) -> None:
    expect(page.locator("#try-message")).to_contain_text(text)


def assert_equal(found: NDArray[Any], expected: NDArray[Any]) -> None:
    assert expected.max() > 0, "the example has no object"
    assert ((found > 0) != (expected > 0)).mean() <= ROUNDING
    if ((found > 0) == (expected > 0)).all():
        np.testing.assert_array_equal(found, expected)  # the numbers of the objects, too


def test_masks_and_tables_are_those_of_python(page: Any, site: Path, tmp_path: Path) -> None:
    page.get_by_role("button", name="noise").click()
    expect(summary(page)).to_contain_text("object")
    maps, logits = explained(
        Usage(CLASSES).scaled(read_image(site / browser.PLACE / "small.png")), SIDE
    )
    cls = int(logits.argmax())
    score = gaussian(combine(maps[cls]), 1)
    labels = pieces(otsu(score), 4)
    mask = read_mask(save(page, "mask, TIFF", tmp_path))
    assert_equal(mask, labels)
    assert ((read_mask(save(page, "mask, PNG", tmp_path)) == 255) == (mask > 0)).all()
    assert f"{mask.max()} object" in page.inner_text("#try-summary")
    rows = list(csv.DictReader(save(page, "objects, CSV", tmp_path).open()))
    expected = table(mask, score.numpy(), 0.5)
    assert list(rows[0]) == list(expected[0])
    found = np.array([[float(value) for value in row.values()] for row in rows])
    np.testing.assert_allclose(found, [list(row.values()) for row in expected], 1e-4, 1e-4)
    outlined = np.zeros(mask.shape, bool)
    with zipfile.ZipFile(save(page, "ROIs, ImageJ", tmp_path)) as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == mask.max()
        for name in archive.namelist():
            for loop in roifile.ImagejRoi.frombytes(archive.read(name)).coordinates(multi=True):
                outlined ^= polygon2mask(mask.shape, loop[:, ::-1] - 0.5)
    assert (outlined == (mask > 0)).all()


@pytest.mark.parametrize(
    ("how", "layers", "threshold", "mark"),
    [
        ("mean", LAYERS[:4], "triangle", triangle),
        ("prod", ("1b", "4b"), "percentile", lambda score: percentile(score, 80)),
        ("sum", LAYERS, "otsu", otsu),
    ],
)
def test_every_way_gives_the_mask_of_python(
    page: Any, tmp_path: Path, how: str, layers: tuple, threshold: str, mark: Callable
) -> None:
    image, name = pixels(70, 61, high=2**16), "deep.png" if how == "mean" else "deep.tif"
    if how == "mean":
        Image.fromarray(image[0]).save(tmp_path / name)
    else:
        tifffile.imwrite(tmp_path / name, image[0], compression="lzw", predictor=2)
    page.get_by_label("tile, px").fill("128")
    page.get_by_label("tile, px").press("Enter")
    page.get_by_label("scaling").select_option("minmax")
    take(page, tmp_path / name)
    expect(summary(page)).to_contain_text("object")
    for layer in LAYERS:
        page.get_by_label(layer, exact=True).set_checked(layer in layers)
    page.get_by_label("combine by").select_option(how)
    page.get_by_label("threshold").select_option(threshold)
    maps, logits = explained(Usage(CLASSES, "minmax").scaled(image), 128)
    assert offered(page)[0] == CLASSES[int(logits.argmax())]
    chosen = [LAYERS.index(layer) for layer in layers]
    labels = pieces(mark(gaussian(combine(maps[int(logits.argmax())], how, chosen), 1)), 4)
    expect(summary(page)).to_contain_text(f"{labels.max()} object")
    assert_equal(read_mask(save(page, "mask, TIFF", tmp_path)), labels)


def offered(page: Any) -> list[str]:
    """Read the names of the predicted classes, the most probable first."""
    texts = page.get_by_role("combobox", name="class").locator("option").all_inner_texts()
    return [text.partition(" (")[0] for text in texts]


def test_a_colour_picture_is_read_and_an_own_network_named(
    page: Any, onnx: Path, tmp_path: Path
) -> None:
    Image.fromarray(np.moveaxis(pixels(64, 64, 3), 0, -1)).save(tmp_path / "own.jpg", quality=95)
    page.get_by_label("or your own, ONNX").set_input_files(onnx)
    message(page, "Choose a picture")
    take(page, tmp_path / "own.jpg")
    message(page, "The network takes grey")
    assert offered(page)
    assert set(offered(page)) <= set(CLASSES)


def test_a_photograph_is_turned_as_its_camera_says(page: Any, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # its rows are the columns of what was seen
    Image.fromarray(pixels(64, 96)[0]).save(tmp_path / "own.jpg", exif=exif, quality=95)
    page.get_by_label("tile, px").fill("96")
    page.get_by_label("tile, px").press("Enter")
    take(page, tmp_path / "own.jpg")
    message(page, "own.jpg, 96 × 64 px")
    maps, logits = explained(Usage(CLASSES).scaled(read_image(tmp_path / "own.jpg")), 96)
    score = gaussian(combine(maps[int(logits.argmax())], "pca", range(7)), 1)
    assert_equal(read_mask(save(page, "mask, TIFF", tmp_path)), pieces(otsu(score), 4))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("words.txt", b"no picture", "no PNG, JPEG, BMP or TIFF"),
        ("cut.png", b"\x89PNG\r\n\x1a\n" + bytes(40), "damaged"),
        ("huge.tif", "huge", "too many for a browser"),
        ("small.png", "small", "too small"),
        ("deep.tif", "deep", "choose the scaling"),
        ("two.tif", "two", "has 2 channels"),
        ("deep.png", DEEP, "damaged"),
        ("words.onnx", b"no network", "no ONNX file"),
        ("plain.onnx", "plain", 'use to_onnx(path, model, maps="predicted")'),
    ],
)
def test_what_cannot_be_used_is_said_and_the_page_goes_on(
    same_page: Any, tmp_path: Path, name: str, content: bytes | str, sentence: str
) -> None:
    page, path = same_page, tmp_path / name
    if content == "plain":
        to_onnx(path, MODEL, maps=True)
    elif content == "huge":
        tifffile.imwrite(path, np.zeros((60_000, 1000), np.uint8), compression="zlib")
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        image = {"small": pixels(5, 90), "deep": pixels(64, 64, high=2**16),
                 "two": pixels(64, 64, 2)}[content]  # fmt: skip
        (browser.write_picture if len(image) == 1 else tifffile.imwrite)(path, image)
    label = "or your own, ONNX" if path.suffix == ".onnx" else "or your own picture"
    page.get_by_label(label).set_input_files(path)
    message(page, sentence)
    page.get_by_role("button", name="noise").click()
    expect(page.locator("#try-message")).not_to_contain_text(sentence)
    expect(summary(page)).to_contain_text("object")


def begin_long(page: Any, folder: Path, side: int) -> None:
    """Take a picture that needs many tiles, and wait until the first are computed."""
    browser.write_picture(folder / "large.png", pixels(side, side))
    page.get_by_label("tile, px").fill("32")
    page.get_by_label("tile, px").press("Enter")
    take(page, folder / "large.png")
    page.get_by_role("progressbar", name="tiles computed").wait_for()


def test_a_computation_can_be_cancelled_while_the_page_answers(page: Any, tmp_path: Path) -> None:
    begin_long(page, tmp_path, 600)
    page.get_by_role("button", name="Cancel").click()
    message(page, "Cancelled")


def test_a_network_that_fails_while_maps_are_computed_is_said(page: Any, tmp_path: Path) -> None:
    begin_long(page, tmp_path, 300)
    (tmp_path / "words.onnx").write_bytes(b"no network")
    page.get_by_label("or your own, ONNX").set_input_files(tmp_path / "words.onnx")
    expect(summary(page)).to_contain_text("object")  # of the picture, which is done to its end
    message(page, "no ONNX file")


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_picture_can_be_dropped_and_pasted(page: Any, way: str) -> None:
    page.evaluate(
        """async (way) => {
        const reply = await fetch("_static/try/small.png");
        const carried = new DataTransfer();
        carried.items.add(new File([await reply.arrayBuffer()], "dragged.png"));
        const [kind, name] = way === "drop" ? [DragEvent, "dataTransfer"]
                                            : [ClipboardEvent, "clipboardData"];
        document.dispatchEvent(new kind(way, {[name]: carried, bubbles: true}));
    }""",
        way,
    )
    message(page, "dragged.png")
    expect(summary(page)).to_contain_text("object")


def test_nothing_outside_the_folder_is_asked(page: Any, address: str) -> None:
    page.get_by_role("button", name="noise").click()
    expect(summary(page)).to_contain_text("object")
    ask = "url => fetch(url, {mode: 'no-cors'}).then(() => 'answered', () => 'refused')"
    elsewhere = Faults({"x": b"x"})
    with serve_faults(elsewhere) as other:
        assert page.evaluate(ask, f"{other}/x") == "refused"
        assert {worker.evaluate(ask, f"{other}/x") for worker in page.workers} == {"refused"}
    assert not elsewhere.requests
    assert page.evaluate(ask, address) == "answered"


def test_a_missing_runtime_is_said_and_can_be_tried_again(
    chromium: Any, site: Path, tmp_path: Path
) -> None:
    for file in (*(site / browser.PLACE).glob("*.*"), site / "try.html"):
        place = tmp_path / file.relative_to(site)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.read_bytes())
    page = chromium.new_page()
    with serve_folder(tmp_path) as url:
        page.goto(f"{url}/try.html")
        button = page.get_by_role("button", name="Load the runtime, 14.3 MB")
        button.click()
        message(page, "could not be loaded (404)")
        expect(button).to_be_enabled()
        settings = tmp_path / browser.PLACE / "networks.json"
        settings.write_text(json.dumps(json.loads(settings.read_text()) | {"runtimes": None}))
        page.close()
        page = chromium.new_page()  # without a cache: the file may be of the same second
        page.goto(f"{url}/try.html")
        message(page, "Built without a network")
    page.close()


def offer(page: Any, site: Path, **network: Any) -> None:
    """Offer another network, like the first but for what is given, when the page is opened anew."""
    about = json.loads((site / browser.PLACE / "networks.json").read_text())
    about["networks"].append(about["networks"][0] | network)
    page.route("**/networks.json", lambda route: route.fulfill(json=about))
    page.goto("about:blank")


def test_the_address_names_the_network_and_follows_it(page: Any, site: Path, address: str) -> None:
    offer(page, site, id="other", name="another", sigma=2)
    load(page, f"{address}#network=other")
    network = page.get_by_role("combobox", name="network")
    expect(network).to_have_value("other")
    expect(page.get_by_label("smoothing")).to_have_value("2")
    network.select_option("small")
    expect(page.get_by_label("smoothing")).to_have_value("1")
    assert page.url.endswith("#network=small")


def test_the_network_that_is_named_is_the_one_that_is_loaded(
    page: Any, site: Path, address: str
) -> None:
    offer(page, site, id="lost", name="a lost one", file="lost.onnx", sigma=2)
    page.goto(f"{address}#network=lost")
    page.get_by_role("button", name="Load the runtime").click()
    message(page, "lost.onnx could not be loaded (404)")
    network = page.get_by_role("combobox", name="network")
    expect(network).to_have_value("")  # there is none
    network.select_option("small")
    message(page, "Choose a picture")
    network.select_option("lost")
    message(page, "lost.onnx could not be loaded (404)")
    expect(network).to_have_value("small")
    assert page.url.endswith("#network=small")
    page.get_by_role("button", name="noise").click()
    expect(summary(page)).to_contain_text("object")
    small = site / browser.PLACE / "small.onnx"
    page.route("**/lost.onnx", lambda route: route.fulfill(path=small))
    network.select_option("lost")  # the same one, once more
    smoothing = page.get_by_label("smoothing")
    expect(smoothing).to_have_value("2")
    expect(network).to_have_value("lost")
    page.get_by_label("or your own, ONNX").set_input_files(small)
    expect(network).to_have_value("")  # a file of the reader's is none of these
    expect(smoothing).to_have_value("1")
    network.select_option("lost")
    expect(smoothing).to_have_value("2")


def test_the_sample_is_that_of_the_network_that_is_loading(
    page: Any, site: Path, address: str
) -> None:
    place = site / browser.PLACE
    browser.write_picture(place / "other.png", pixels(70, 80))
    held: list[Any] = []
    for file in ("other.onnx", "small.png"):
        page.route(f"**/{file}", lambda route: held.append(route))
    offer(page, site, id="other", name="another", file="other.onnx",
          sample={"file": "other.png", "name": "noise"})  # fmt: skip
    load(page, address)
    with page.expect_request("**/other.onnx"):
        page.get_by_role("combobox", name="network").select_option("other")
    with page.expect_request("**/small.png"):
        page.get_by_role("button", name="noise").click()  # still the first network's
    held[0].fulfill(path=place / "small.onnx")
    message(page, "noise, 70 × 80 px")
    with page.expect_response("**/small.png"):
        held[1].fulfill(path=place / "small.png")
    message(page, "noise, 70 × 80 px")
    expect(page.locator("#try-picture")).to_have_attribute("width", "80")


def test_a_broken_download_is_said_and_can_be_tried_again(
    chromium: Any, site: Path, address: str
) -> None:
    place = browser.PLACE.as_posix()
    files = {path.relative_to(site).as_posix(): path.read_bytes()
             for path in site.rglob("*") if path.is_file()}  # fmt: skip
    page, network = chromium.new_page(), f"{place}/small.onnx"
    faulty = Faults({network: files[network]}, always="cut 1000")
    with serve_faults(faulty) as url:
        page.route("**/small.onnx", lambda route: route.continue_(url=f"{url}/{network}"))
        page.goto(address)
        page.get_by_role("button", name="Load the runtime").click()
        message(page, "small.onnx could not be loaded (the connection broke): try again.")
    page.close()


def test_too_little_memory_is_said(chromium: Any, site: Path, address: str) -> None:
    page = chromium.new_page()
    worker = (site / browser.PLACE / "worker.mjs").read_text()
    short = worker.replace("new Float32Array(8 * weights.length)", "new Float32Array(2 ** 52)")
    assert short != worker
    page.route("**/worker.mjs", lambda route: route.fulfill(
        body=short, content_type="text/javascript"))  # fmt: skip
    load(page, address)
    page.get_by_role("button", name="noise").click()
    message(page, "The memory of the browser is not enough")
    page.close()


def test_without_webassembly_the_page_says_so(chromium: Any, address: str) -> None:
    page = chromium.new_page()
    page.add_init_script("delete globalThis.WebAssembly")
    page.goto(address)
    message(page, "This browser has no WebAssembly")
    assert not page.get_by_role("button", name="Load the runtime").is_visible()
    page.close()


def test_an_isolated_page_takes_threads_and_finds_the_same(
    chromium: Any, page: Any, site: Path
) -> None:
    headers = {"Cross-Origin-Opener-Policy": "same-origin",
               "Cross-Origin-Embedder-Policy": "require-corp"}  # fmt: skip
    ways, found = [], []
    isolated = chromium.new_page()
    with serve_folder(site, headers) as url:
        load(isolated, f"{url}/try.html")
        for each in (page, isolated):
            each.get_by_role("button", name="noise").click()
            expect(summary(each)).to_contain_text("object")
            found.append(each.inner_text("#try-summary").split(",")[0])
            plan = "import('/_static/try/asking.mjs').then(asking => asking.plan())"
            ways.append(each.evaluate(plan))
        isolated.close()
    cores = min(page.evaluate("navigator.hardwareConcurrency"), 4)
    assert ways[0] == {"kind": "wasm", "threads": 1, "workers": cores}
    assert ways[1] == {"kind": "wasm", "threads": cores, "workers": 1}
    assert found[0] == found[1]


def test_opened_as_a_file_the_page_says_what_to_do(chromium: Any, site: Path) -> None:
    page = chromium.new_page()
    page.goto((site / "try.html").as_uri())
    message(page, "python -m http.server")
    page.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_suits_keyboards_phones_and_screen_readers(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    sample = page.get_by_role("button", name="noise")
    sample.focus()
    sample.press("Enter")
    expect(summary(page)).to_contain_text("object")
    before = page.inner_text("#try-summary")
    page.get_by_label("smoothing").press("End")
    expect(page.locator("#try-summary")).not_to_have_text(before)
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    assert not [(fault["id"], fault["nodes"][0]["html"]) for fault in found]
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width


def test_the_registry_is_that_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("npm_config_registry", "NPM_CONFIG_REGISTRY"):
        monkeypatch.delenv(name, raising=False)
    assert npm.registry() == "https://registry.npmjs.org"
    (tmp_path / ".npmrc").write_text("fund=false\nregistry=https://mirror.example/npm/\n")
    assert npm.registry() == "https://mirror.example/npm"
    monkeypatch.setenv("npm_config_registry", "https://other.example/")
    assert npm.registry() == "https://other.example"


def test_without_the_runtime_the_build_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MICRANET_DATA", str(tmp_path / "downloads"))
    archive = "onnxruntime-web/-/onnxruntime-web-1.30.0.tgz"
    for files in ({}, {archive: b"another content"}):
        with serve_faults(Faults(files)) as url:
            monkeypatch.setenv("npm_config_registry", url)
            browser.write(tmp_path, [])
        about = json.loads((tmp_path / "networks.json").read_text())
        assert about["runtimes"] is None
        assert about["networks"] == []
