"""Hostile files: a sentence that names them, in little memory, and no markup out of their texts."""

import faulthandler
import json
import os
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import matplotlib.pyplot as plt
import numpy as np
import pytest
import tifffile
import torch
from conftest import random_model
from PIL import Image

from micranet_helpers import plots, train, zoo
from micranet_helpers.data import dataset, own
from micranet_helpers.explore import predict
from micranet_helpers.files.archives import unpack
from micranet_helpers.files.images import read_image, read_mask
from micranet_helpers.files.series import planes
from micranet_helpers.files.tables import plain, visible
from micranet_helpers.lessons import results
from micranet_helpers.maps import recipes
from micranet_helpers.maps.segmentation import Recipe, segment
from micranet_helpers.train.checkpoints import read_checkpoint
from micranet_helpers.zoo import older_layout

ESCAPE = "\x1b]0;title\x07"  # renames a terminal's window
pytestmark = pytest.mark.faults
posix = pytest.mark.skipif(os.name != "posix", reason="needs pipes and /proc")


@pytest.fixture(autouse=True)
def ends() -> Iterator[None]:
    """Loops in a library's C code see no signal: the guard ends the tests instead."""
    faulthandler.dump_traceback_later(120, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@contextmanager
def little_work() -> Iterator[None]:
    """Let what is done take less than 1 GB, and 10 s of a core, whatever else the machine does."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest use so far
    before, begin = _most_memory(), time.process_time()
    yield
    assert _most_memory() - before < 2**20
    assert time.process_time() - begin < 10


def _most_memory() -> int:
    """Return the highest memory of this process, kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


# --- any file at any door ----------------------------------------------------------------------


DOORS: dict[str, Callable[[Path], Any]] = {
    "zoo": zoo.contents,
    "network": lambda path: zoo.load(path, "MICRANet"),
    "dataset": dataset.describe,
    "checkpoint": read_checkpoint,
    "results": results.load,
    "image": read_image,
    "mask": read_mask,
    "stack": lambda path: list(planes(path)),
    "labels": own.read_table,
    "boxes": own.read_boxes,
    "crops": own.read_crops,
    "answers": lambda path: own.read_answers([path]),
    "coco": own.read_coco,
    "outlines": lambda path: own.read_geojson(path.parent),
    "labelme": lambda path: own.read_labelme(path.parent),
    "archive": lambda path: unpack(path, path.parent / "out"),
}

FILES: dict[str, Callable[[Path], Any]] = {
    "empty": Path.touch,
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "zeros": lambda path: path.write_bytes(bytes(2**16)),
    "escapes": lambda path: path.write_text(f"{ESCAPE},{ESCAPE}\n{ESCAPE},{ESCAPE}"),
    "latin-1": lambda path: path.write_bytes("größe;é\n1;2".encode("latin-1")),
    "nested": lambda path: path.write_text("[" * 10**5),
    "not finite": lambda path: path.write_text('{"a": [NaN, Infinity, 1e999]}'),
    "page": lambda path: path.write_text("<html><script>alert(1)</script></html>"),
}  # fmt: skip


CASES = {(door, content) for door in DOORS for content in FILES} - {("archive", "zeros")}  # empty


@posix
@pytest.mark.parametrize(("door", "content"), sorted(CASES))
def test_any_file_is_refused_in_a_sentence(door: str, content: str, tmp_path: Path) -> None:
    path = tmp_path / {"outlines": "a.geojson", "image": "a.png"}.get(door, "a.json")
    FILES[content](path)
    with little_work(), pytest.raises((ValueError, OSError)) as caught:
        DOORS[door](path)
    text = str(caught.value)
    assert str(tmp_path) in text and text == visible(text)


# --- more than there is ------------------------------------------------------------------------


def stack(shape: tuple[int, ...], chunks: tuple[int, ...]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with h5py.File(path, "w") as file:
            file.create_dataset("t/data", shape, "u1", chunks=chunks, maxshape=(None,) * 3)
            file.create_dataset("t/label", (shape[0], 1), "u1")

    return write


def single_values(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_group("MICRANet").attrs["trainer_params"] = "{}"
        for name, value in random_model().state_dict().items():
            chunks = {"chunks": (1,) * value.ndim} if value.ndim else {}
            file.create_dataset(f"MICRANet/model/{name}", value.shape, "f4", **chunks)


def saved_beside(path: Path) -> None:
    zoo.save(path, "other", random_model(), {})


def endless_text(path: Path) -> None:
    zoo.save(path, "MICRANet", random_model(), {})
    data = bytearray(path.read_bytes())
    heap = data.index(b"GCOL") + 16
    data[heap : heap + 16] = bytes(16)
    path.write_bytes(data)


def many_heads(path: Path) -> None:
    """Heads of heaps, each in all those before it: each looked at to its end would take hours."""
    endless_text(path)
    heads = (b"GCOL\1\0\0\0" + (n * 16).to_bytes(8, "little") for n in range(2**16, 0, -1))
    with h5py.File(path, "a") as file:
        file["MICRANet/model"]["linear1.weight"].attrs["a"] = 1
        file.create_dataset("MICRANet/model/more", data=np.frombuffer(b"".join(heads), "f4"))


def packed(path: Path) -> None:
    torch.save({"epoch": 0, "hyper_parameters": {}, "state_dict": {}}, path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/data/0", bytes(2**24))


def declared(**hyper: Any) -> Callable[[Path], None]:
    content = {"in_channels": 1, "num_classes": 2, "network": "MICRANet", **hyper}

    def write(path: Path) -> None:
        state = {"linear1.weight": torch.zeros(1).expand(2**34)}
        torch.save({"epoch": 0, "hyper_parameters": content, "state_dict": state}, path)

    return write


def coco(*annotations: dict, times: int = 1) -> Callable[[Path], None]:
    content = {
        "images": [{"id": 1, "file_name": "a.tif"}], "categories": [{"id": 1, "name": "c"}],
        "annotations": [{"image_id": 1, "category_id": 1, **each} for each in annotations] * times,
    }  # fmt: skip
    return lambda path: path.write_text(json.dumps(content))


def square(side: int) -> list[int]:
    return [0, 0, side, 0, side, side, 0, side]


def draw(path: Path) -> Any:
    return own.read_coco(path).images["a.tif"](2048, 2048)


def zigzag(corners: int) -> list[int]:
    return [number for x in range(corners) for number in (x % 2048, 2048 * (x % 2))]


def read_split(path: Path) -> Any:
    return list(dataset.read(path, "t"))


BOMBS: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any], str]] = {
    "chunks of one value": (stack((1, 8192, 8192), (1, 1, 1)), read_split, "pieces"),
    "an image of zeros": (stack((1, 32768, 32768), (1, 2048, 2048)), read_split, "can hold"),
    "one large chunk": (stack((1, 64, 64), (1, 16384, 16384)), read_split, "can hold|chunk"),
    "weights of single values": (single_values, DOORS["network"], "pieces"),
    "text without end": (endless_text, DOORS["zoo"], ""),
    "text without end, loaded": (endless_text, DOORS["network"], "a text in .* is damaged"),
    "text without end, kept": (endless_text, saved_beside, "a text in .* is damaged"),
    "heads of heaps": (many_heads, DOORS["network"], "a text in .* is damaged"),
    "deflated checkpoint": (packed, read_checkpoint, "is damaged or no checkpoint"),
    "channels": (declared(in_channels=10**9), lambda path: train.load(path.parent), "no check"),
    "classes": (declared(num_classes=2**40), lambda path: train.load(path.parent), "no check"),
    "depth": (declared(network="UNet", options={"depth": 40}),
              lambda path: train.load(path.parent), "no check"),
    "older layout": (lambda path: (packed(path.with_name("params.net")),
                                   path.with_name("trainer_params.json").write_text("{}")),
                     lambda path: older_layout.load(path.parent), "is damaged"),
    "mask": (lambda path: tifffile.imwrite(path, np.zeros((17_000, 17_000), "u1"),
                                           compression="deflate"), read_mask, "declares"),
    "overlaps": (coco({"segmentation": [square(2048)]}, times=900), draw, "overlap too often"),
    "outlines": (coco({"segmentation": [square(2048)] * 900}), draw, "overlap too often"),
    "masks": (coco({"segmentation": {"size": [2048, 2048], "counts": [0, 2**22]}}, times=900),
              draw, "overlap too often"),
    "corners": (coco({"segmentation": [zigzag(60_000)]}), draw, "too many corners"),
    "runs": (coco({"segmentation": {"size": [9, 9], "counts": "o" * 500_000}}), draw, "longer"),
}  # fmt: skip


@posix
@pytest.mark.parametrize("name", BOMBS)
def test_small_files_take_little_memory_and_time(name: str, tmp_path: Path) -> None:
    write, read, message = BOMBS[name]
    path = tmp_path / "best.ckpt"
    write(path)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 6e6
    with little_work():
        if not message:  # listed, with what cannot be read left out
            assert read(path)[0]["in_channels"] is None
            return
        with pytest.raises(ValueError, match=message) as caught:
            read(path)
    assert str(tmp_path) in str(caught.value) or "a.tif" in str(caught.value)


# --- texts -------------------------------------------------------------------------------------


SCRIPT = "<script>document.title = 1</script>"
TEXTS = [SCRIPT, "<img src=x onerror=alert(1)>", "[a](javascript:alert(1))", "`{raw}`", "a | b",
         "$\\href{javascript:alert(1)}{x}$", "\\<b>", ESCAPE, "![](http://a.example/b.png)"]


@pytest.mark.parametrize("text", TEXTS)
def test_texts_of_files_are_shown_as_they_are(text: str) -> None:
    """A table is one of text alone, in which the text can be read."""
    from markdown_it import MarkdownIt

    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(
        results.number_table({text: {text: 1.0}}, text)
    )
    kinds = {child.type for token in tokens for child in token.children or ()}
    cells = [child.content for token in tokens for child in token.children or ()]
    assert kinds <= {"text", "text_special"} and "html_block" not in {t.type for t in tokens}
    assert "".join(cells) == 3 * visible(text) + "1.000"
    assert "$" not in plain(text).replace("\\$", "")


def test_names_of_files_reach_no_terminal(tmp_path: Path) -> None:
    Image.fromarray(np.eye(16, dtype=np.uint8)).save(tmp_path / f"{ESCAPE}.png")
    Image.fromarray(np.eye(16, dtype=np.uint8)).save(os.fsencode(tmp_path) + b"/gr\xf6n.png")
    labels = tmp_path / "labels.csv"
    labels.write_text(f"file,{ESCAPE}\n{ESCAPE}.png,1\n")
    text = own.report(own.survey(tmp_path, own.read_table(labels)))
    assert text == visible(text) and "\\x1b" in text and "gr\\udcf6n" in text
    text.encode()


@pytest.mark.parametrize("title", ["$_$.tif", "$\\frac$", "50 $ and 60 $"])
def test_titles_are_no_formulas(title: str) -> None:
    plots.show_images(torch.zeros(1, 1, 8, 8), titles=[title])
    plt.gcf().canvas.draw()
    assert plt.gcf().axes[0].get_title() == title
    plt.close()


def test_maps_of_very_many_classes_are_refused() -> None:
    entry = zoo.ZooEntry([random_model(1, 1000)], {}, None)
    with pytest.raises(ValueError, match="maps of 1000 classes do not fit"):
        predict(entry, torch.rand(1, 1, 256, 256))


# --- numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1e38, np.nan])
@pytest.mark.parametrize("recipe", [recipes.EVIDENCE, recipes.DIGITS])
def test_a_network_that_overflows_gives_no_empty_masks(recipe: Recipe, factor: float) -> None:
    with pytest.raises(ValueError, match="are NaN or infinite"):
        segment(random_model(), factor * torch.rand(1, 1, 32, 32), recipe)
