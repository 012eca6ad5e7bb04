"""Blood smears: boxes of two published formats, splits, and the simulated fields."""

import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import drawn
import numpy as np
import pytest
from damage import damaged
from drawn import annotate, marked, photo
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import find_objects

from micranet_helpers import metrics
from micranet_helpers.data import dataset, pvivax
from micranet_helpers.data.dataset import SPLITS
from micranet_helpers.data.simulated import smear


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return photo(tmp_path / "PA1.PNG")


def read_one(image: Path, *objects: dict[str, Any], scale: int = 1) -> dataset.Sample:
    annotations = annotate(image.parent / "annotations.json", (image.name, list(objects)))
    (sample,) = pvivax.read(annotations, [image], scale)
    return sample


# --- boxes -------------------------------------------------------------------------------------


def test_boxes_are_filled_clipped_and_numbered(image: Path) -> None:
    sample = read_one(
        image,
        marked("red blood cell", -5, 30, 15, 23),
        marked("ring", 10, 10, 10, 10),
        marked("red blood cell", 40, 5, 8, 6),
        marked("red blood cell", 40, 5, 8, 6),  # marked twice
        marked("difficult", 60, 0, 7, 4),
    )
    expected = np.zeros((3, 48, 64), np.uint16)
    expected[1, 30:48, 0:10] = 1
    expected[0, 10:20, 10:20] = 1
    expected[1, 5:11, 40:48] = 2
    expected[2, 0:4, 60:64] = 1
    assert np.array_equal(sample.label, expected)
    boxes = [[1, 30, 0, 48, 10], [0, 10, 10, 20, 20], [1, 5, 40, 11, 48], [2, 0, 60, 4, 64]]
    assert np.array_equal(sample.boxes, boxes)
    assert sample.present.tolist() == [1, 1, 1]


def test_of_overlapping_cells_the_smaller_stays_whole(image: Path) -> None:
    small, large = marked("ring", 5, 5, 4, 4), marked("schizont", 0, 0, 20, 20)
    for pair in ((small, large), (large, small)):
        label = read_one(image, *pair).label[0]
        assert (label > 0).sum() == 400
        assert (label == label[6, 6]).sum() == 16


def test_scale_takes_the_mean_of_squares_and_moves_the_boxes(tmp_path: Path) -> None:
    image = photo(tmp_path / "odd.png", 49, 65)
    sample = read_one(image, marked("ring", 7, 10, 9, 10), marked("ring", 60, 40, 9, 9), scale=2)
    with Image.open(image) as file:
        reduced = np.asarray(file.crop((0, 0, 64, 48)).reduce(2))
    assert sample.image.shape == (3, 24, 32)
    assert np.abs(np.moveaxis(sample.image, 0, -1) - reduced.astype(float)).max() <= 1
    assert sample.boxes.tolist() == [[0, 5, 3.5, 10, 8], [0, 20, 30, 24, 32]]
    assert (sample.label[0] == 1).sum() == 5 * 5  # half-covered pixels count


def test_pixels_are_standardised_per_channel(image: Path, tmp_path: Path) -> None:
    pixels = read_one(image).pixels
    assert np.allclose(pixels.mean((1, 2)), 0, atol=1e-4)
    assert np.allclose(pixels.std((1, 2)), 1, atol=1e-4)
    Image.new("RGB", (16, 16), (9, 8, 7)).save(tmp_path / "flat.png")
    assert np.allclose(read_one(tmp_path / "flat.png").pixels, 0)


@st.composite
def box(draw: st.DrawFn) -> dict[str, Any]:
    left, top = draw(st.integers(-6, 63)), draw(st.integers(-6, 47))
    # Centred on an image of 48 x 64 px.
    width = draw(st.integers(max(1, 1 - 2 * left), 127 - 2 * left))
    height = draw(st.integers(max(1, 1 - 2 * top), 95 - 2 * top))
    return marked(draw(st.sampled_from(["ring", "red blood cell", "difficult"])), left, top,
                  width, height)  # fmt: skip


@settings(max_examples=50)
@given(boxes=st.lists(box(), max_size=12), scale=st.integers(1, 4))
def test_label_covers_what_the_boxes_cover(tmp_path_factory, boxes, scale) -> None:
    folder = tmp_path_factory.getbasetemp() / "any_boxes"
    image = folder / "any.png"
    sample = read_one(image if image.exists() else photo(image), *boxes, scale=scale)
    covered = np.zeros(sample.label.shape, bool)
    for kind, top, left, bottom, right in sample.boxes:
        covered[int(kind), int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = True
    assert np.array_equal(sample.label > 0, covered)
    counts = np.bincount(sample.boxes[:, 0].astype(int), minlength=3)
    assert (sample.label.max((1, 2)) <= counts).all()
    distinct = {json.dumps(thing) for thing in boxes}
    height, width = (scale * side for side in sample.image.shape[1:])
    seen = [
        thing
        for thing in map(json.loads, distinct)
        if int(thing["bbox"]["x"]) < width and int(thing["bbox"]["y"]) < height
    ]
    assert len(sample.boxes) == len(seen)


# --- faults ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "thing",
    [
        marked("virus", 5, 5, 9, 9),
        marked("ring", 5, 5, 0, 9),
        marked("ring", 5, 5, 9, -3),
        marked("ring", 60, 5, 9, 9),
        marked("ring", -9, 5, 12, 9),
        marked("ring", "nan", 5, 9, 9),
        marked("ring", 5, 5, "inf", 9),
        marked("ring", "5 px", 5, 9, 9),
        {"type": "ring"},
        {"type": ["ring"], "bbox": {}},
        {"type": "ring", "bbox": {"x": None, "y": 1, "w": 1, "h": 1}},
        {"type": "ring", "bbox": {"x": 10**400, "y": 1, "w": 1, "h": 1}},
        "ring",
        None,
    ],
)
def test_wrong_box_is_refused_and_named(image: Path, thing: Any) -> None:
    with pytest.raises(ValueError, match=r"annotations\.json.*(box 1|entry 0).*download"):
        read_one(image, marked("ring", 5, 5, 9, 9), thing)


@pytest.mark.parametrize(
    "text",
    ["", "[", "7", "null", '{"a": 1}', "[7]", "[null]", '[{"image_name": 7, "objects": []}]',
     '[{"image_name": "PA1.PNG"}]', "[" * 100_000, "\x00", '[{"image": {"pathname": []}}]',
     '[{"image_name": "a", "objects": []}, {"image_name": "a", "objects": []}]'],
)  # fmt: skip
def test_wrong_annotations_are_refused(image: Path, text: str) -> None:
    annotations = image.parent / "annotations.json"
    annotations.write_text(text)
    with pytest.raises(ValueError, match=r"annotations\.json is damaged.*download it again"):
        list(pvivax.read(annotations, [image]))


def test_missing_or_unusable_files_are_named(image: Path, tmp_path: Path) -> None:
    annotations = annotate(tmp_path / "a.json", *((n, []) for n in ("PA1.PNG", "no.png", "g.png")))
    with pytest.raises(FileNotFoundError, match=r"no\.json"):
        list(pvivax.read(tmp_path / "no.json", [image]))
    with pytest.raises(FileNotFoundError, match=r"no\.png"):
        list(pvivax.read(annotations, [tmp_path / "no.png"]))
    with pytest.raises(ValueError, match=r"says nothing of other\.png"):
        list(pvivax.read(annotations, [photo(tmp_path / "other.png")]))
    Image.new("L", (16, 16)).save(tmp_path / "g.png")
    with pytest.raises(ValueError, match=r"g\.png is no colour image"):
        list(pvivax.read(annotations, [tmp_path / "g.png"]))
    for scale in (0, 49):
        with pytest.raises(ValueError, match="cannot be reduced"):
            list(pvivax.read(annotations, [image], scale))
    image.write_bytes(image.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"PA1\.PNG"):
        list(pvivax.read(annotations, [image]))


def test_damage_gives_an_error_or_boxes_within_the_image(image: Path) -> None:
    annotations = annotate(
        image.parent / "a.json",
        (image.name, [marked("ring", 5, 5, 19, 9), marked("difficult", 30, 20, 10, 12)]),
    )
    refused = 0
    for data in damaged(annotations.read_bytes(), 500):
        annotations.write_bytes(data)
        try:
            (sample,) = pvivax.read(annotations, [image], 1)
        except ValueError as error:
            assert "a.json" in str(error)
            refused += 1
        else:
            assert (sample.boxes[:, 1:] >= 0).all()
            assert (sample.boxes[:, 3:] <= (48, 64)).all()
            assert len(sample.boxes) == 2
    assert 400 < refused < 500


# --- published files ---------------------------------------------------------------------------


@pytest.mark.data
def test_published_fields_hold_the_published_cells(mirror: Path) -> None:
    iml = next((mirror / "raw.githubusercontent.com/QaziAmmar").glob("*/*"))
    images = [iml / "IML_Malaria" / f"PA{number}.JPG" for number in (171690, 171842, 172033)]
    listed = json.loads((iml / "annotations.json").read_text())
    objects = {entry["image_name"]: entry["objects"] for entry in listed}
    for path, sample in zip(images, pvivax.read(iml / "annotations.json", images), strict=True):
        assert (sample.name, sample.image.shape) == (path.name, (3, 480, 640))
        with Image.open(path) as file:
            reduced = np.moveaxis(np.asarray(file.reduce(2)).astype(float), -1, 0)
        assert np.abs(sample.image - reduced).max() <= 1
        kinds = [pvivax.KINDS[thing["type"]] for thing in objects[path.name]]
        assert np.array_equal(sample.boxes[:, 0], kinds)
        assert sample.present[0] == (0 in kinds)


@pytest.mark.parametrize("fold", range(pvivax.FOLDS))
def test_open_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fold: int) -> None:
    """Photographs of overlapping fields share a split: between two splits, two are left out."""
    files = drawn.iml_malaria(tmp_path, range(171690, 171790))
    asked = drawn.offer(monkeypatch, pvivax, {"pvivax": files})
    path = pvivax.build(tmp_path / "pvivax.hdf5", "open", subset="small", scale=4, fold=fold)
    about, sizes = dataset.describe(path)
    assert about.classes == pvivax.CLASSES and asked == [("pvivax", "small")]
    assert "Arshad" in about.source and about.licence == "none stated"
    found = {split: list(dataset.read(path, split)) for split in SPLITS}
    places = [(int(sample.name[2:8]), split) for split in SPLITS for sample in found[split]]
    assert all(abs(a - b) > 2 for a, split in places for b, other in places if split != other)
    learnt, held = {2: (54, 16), 3: (52, 18), 4: (54, 16)}.get(fold, (52, 16))
    assert sizes == {"training": learnt, "validation": held, "testing": 20}
    for sample in found["testing"]:
        assert sample.image.shape == (3, 4, 6) and int(sample.name[2:7]) % pvivax.FOLDS == fold
        assert sample.boxes.tolist() == [[0, 1, 0.5, 2.5, 2.5]]


@pytest.mark.parametrize("fold", [-1, 5, 0.5])
def test_there_are_five_folds(tmp_path: Path, fold: float) -> None:
    with pytest.raises(ValueError, match="must be 0 to 4"):
        pvivax.build(tmp_path / "pvivax.hdf5", "open", fold=fold)


def test_original_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = drawn.bbbc041(tmp_path / "unpacked", 24, 4)
    drawn.offer(monkeypatch, pvivax, {"bbbc041": [folder]})
    path = pvivax.build(tmp_path / "original.hdf5", "original")
    names = {split: {sample.name for sample in dataset.read(path, split)} for split in SPLITS}
    assert names["testing"] == {f"test-{number:03}.png" for number in range(4)}
    assert names["validation"] == {
        name for name in (f"training-{number:03}.png" for number in range(24))
        if zlib.crc32(name.encode()) % 8 == 0
    }  # fmt: skip
    assert len(names["training"] | names["validation"]) == 24
    for sample in dataset.read(path, "testing"):
        kind = int(sample.name[5:8]) % 3
        assert sample.image.shape == (3, 20, 30)
        assert sample.present.tolist() == [int(kind == 2), int(kind == 0), 0]
        if kind != 1:  # white cells have no plane
            assert sample.boxes[0, 1:].tolist() == [4, 8, 10, 16]
            assert (sample.label[:, 4:10, 8:16].max(0) == 1).all()
    (folder / "malaria" / "training.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"training\.json"):
        pvivax.build(path, "original")
    assert dataset.describe(path)[1]["testing"] == 4  # the old file is as before


# --- simulated fields --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fields() -> list[dataset.Sample]:
    return pvivax.simulate(8, 256)


def test_simulated_cells_are_counted_exactly(fields: list[dataset.Sample]) -> None:
    for field in fields:
        assert field.image.dtype == np.uint8 and field.image.shape == (3, 256, 256)
        assert ((field.label > 0).sum(0) <= 1).all(), "a pixel belongs to one cell"
        for kind, plane in enumerate(field.label):
            places = find_objects(plane)
            expected = [[s.start for s in place] + [s.stop for s in place] for place in places]
            of_kind = field.boxes[field.boxes[:, 0] == kind, 1:]
            assert np.array_equal(of_kind, np.reshape(expected, (-1, 4)))


def test_infected_cell_that_the_border_mostly_hides_is_difficult() -> None:
    owner = np.zeros((20, 20), np.int64)
    owner[4:6, 0:5] = 1  # two of five columns are seen
    owner[4:6, 8:12] = 2
    owner[4:6, 14:20] = 3  # three of six columns are seen
    kinds = [-1, smear.INFECTED, smear.UNINFECTED, smear.INFECTED]
    label, boxes = smear.label_seen(owner, kinds, slice(3, 17))
    assert boxes.tolist() == [[2, 1, 0, 3, 2], [1, 1, 5, 3, 9], [0, 1, 11, 3, 14]]
    assert label.sum((1, 2)).tolist() == [6, 8, 4]


def test_simulated_parasites_stand_out_from_their_cell() -> None:
    fields = pvivax.simulate(12, 256, seed=1)

    def contrast(kind: int) -> float:
        """Typical spread of the green light within a cell, as a share of its median."""
        cells = [
            field.image[1][field.label[kind] == number]
            for field in fields for number in range(1, field.label[kind].max() + 1)
        ]  # fmt: skip
        return float(np.median([np.std(c) / np.median(c) for c in cells if c.size > 500]))

    assert contrast(smear.INFECTED) > 1.15 * contrast(smear.UNINFECTED)


def test_border_and_what_it_cuts_counts_neither_way() -> None:
    boxes = [
        (0, 20, 20, 30, 30), (0, 0, 30, 19, 40), (0, 12, 40, 22, 50), (1, 30, 0, 39, 9),
        (2, 25, 45, 35, 55),
    ]  # fmt: skip
    sample = dataset.Sample("a", np.zeros((3, 60, 80), np.uint8), np.zeros((3, 60, 80), np.uint16))
    sample = replace(sample, boxes=np.array(boxes, np.float32))
    np.testing.assert_array_equal(pvivax.gaps(sample), [20, 0, 12, 0, 25])
    infected, neither = pvivax.counted(sample, edge=15)
    np.testing.assert_array_equal(infected, [boxes[0][1:], boxes[2][1:]])
    right = [(25, 25), (13, 45)]  # also in a whole cell near the border
    false = [(40, 60), (15, 60)]  # also where the border ends
    at_border = [(1, 60), (14, 60), (58, 60), (40, 1), (40, 78)]
    places = [*right, *false, *at_border, (17, 35), (30, 50)]  # and of the cut, the difficult cell
    matching = metrics.match_boxes(places, infected, neither)
    assert (matching.tp, matching.fp, matching.fn) == (2, 2, 0)
    bare = replace(sample, boxes=np.empty((0, 5), np.float32))
    infected, neither = pvivax.counted(bare, edge=4)
    assert (infected.shape, neither.shape, pvivax.gaps(bare).shape) == ((0, 4), (4, 4), (0,))


def test_the_other_laboratory_sees_the_same_cells_in_softer_mixed_colours() -> None:
    [here] = pvivax.simulate(1, 96, seed=2)
    there = pvivax.elsewhere(here)
    assert np.array_equal(there.label, here.label) and np.array_equal(there.boxes, here.boxes)
    grey = np.full((3, 32, 32), 90, np.uint8)
    flat = pvivax.elsewhere(dataset.Sample("grey", grey, here.label[:, :32, :32], boxes=here.boxes))
    assert np.array_equal(flat.image, grey)
    assert there.pixels.mean((1, 2)) == pytest.approx(0, abs=1e-3)
    steps = [np.abs(np.diff(sample.image.astype(int))).mean() for sample in (here, there)]
    assert steps[1] < 0.8 * steps[0]
