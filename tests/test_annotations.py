"""Every format gives the same objects; what contradicts itself or the image is refused."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import roifile
import tifffile
from damage import damaged
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from micranet_helpers.data.own import (
    Annotations,
    read_boxes,
    read_coco,
    read_geojson,
    read_labelme,
    read_masks,
    read_rois,
    read_table,
)
from micranet_helpers.data.own.annotations import image_files, image_key

SIZE = (12, 16)
ROW = "file,class,left,top,right,bottom\n"
BOXES = [("ring", 2, 1, 6, 5), ("fibre", 4, 3, 16, 12), ("ring", 8, 8, 9, 12)]


def drawn() -> np.ndarray:
    """The label of BOXES, classes in the order of the alphabet."""
    label = np.zeros((2, *SIZE), np.uint16)
    label[1, 1:5, 2:6], label[0, 3:12, 4:16], label[1, 8:12, 8:9] = 1, 1, 2
    return label


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding)
    return path


def as_boxes(folder: Path) -> Annotations:
    lines = ["a.tif,{},{},{},{},{}".format(*box) for box in BOXES]
    text = "\n".join([*lines, "none.tif,,,,,"])
    return read_boxes(write(folder / "boxes.csv", ROW + text))


def corners(left: float, top: float, right: float, bottom: float) -> list[tuple[float, float]]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def coco(polygons: bool) -> dict:
    kinds = {"fibre": 7, "ring": 3}
    return {
        "images": [{"id": 1, "file_name": "a.tif", "height": 12, "width": 16},
                   {"id": 2, "file_name": "none.tif"}],
        "categories": [{"id": number, "name": kind} for kind, number in kinds.items()],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": kinds[kind],
             "bbox": [left, top, right - left, bottom - top],
             "segmentation": [sum(corners(left, top, right, bottom), ())] if polygons else []}
            for number, (kind, left, top, right, bottom) in enumerate(BOXES)
        ],
    }


def as_coco(folder: Path, polygons: bool = False) -> Annotations:
    return read_coco(write(folder / "coco.json", json.dumps(coco(polygons))))


def as_coco_polygons(folder: Path) -> Annotations:
    return as_coco(folder, polygons=True)


def as_rois(folder: Path) -> Annotations:
    rois = [roifile.ImagejRoi.frompoints(np.asarray(corners(*edges), np.float32),
                                         name=f"{kind}-{number}")
            for number, (kind, *edges) in enumerate(BOXES)]
    roifile.roiwrite(folder / "a.zip", rois)
    with zipfile.ZipFile(folder / "none.zip", "w"):
        pass
    return read_rois(folder)


def as_labelme(folder: Path) -> Annotations:
    shapes = [{"label": kind, "points": [[right, bottom], [left, top]], "shape_type": "rectangle"}
              for kind, left, top, right, bottom in BOXES]
    write(folder / "a.json", json.dumps({"shapes": shapes, "imageHeight": 12, "imageWidth": 16}))
    write(folder / "none.json", json.dumps({"shapes": []}))
    return read_labelme(folder)


def as_geojson(folder: Path) -> Annotations:
    features = [{"type": "Feature", "properties": {"classification": {"name": kind}},
                 "geometry": {"type": "MultiPolygon", "coordinates": [[corners(*edges)]]}}
                for kind, *edges in BOXES]
    write(folder / "a.geojson", json.dumps({"type": "FeatureCollection", "features": features}))
    write(folder / "none.geojson", "[]")
    return read_geojson(folder)


FORMATS: list[Callable[[Path], Annotations]] = [
    as_boxes, as_coco, as_coco_polygons, as_rois, as_labelme, as_geojson,
]  # fmt: skip


@pytest.mark.parametrize("make", FORMATS, ids=lambda make: make.__name__)
def test_every_format_gives_the_same_objects(make, tmp_path) -> None:
    found = make(tmp_path)
    assert found.classes == ("fibre", "ring")
    assert {name.removesuffix(".tif") for name in found.images} == {"a", "none"}
    label, boxes = next(draw for name, draw in found.images.items() if name[0] == "a")(*SIZE)
    np.testing.assert_array_equal(label, drawn())
    if make in (as_rois, as_geojson):
        assert boxes is None
    else:
        expected = [(int(kind == "ring"), top, left, bottom, right)
                    for kind, left, top, right, bottom in BOXES]
        np.testing.assert_array_equal(boxes, np.asarray(expected, np.float32))
    nothing, _ = next(draw for name, draw in found.images.items() if name[0] == "n")(*SIZE)
    assert nothing.shape == (2, *SIZE) and not nothing.any()


@given(st.data())
def test_boxes_fill_the_pixels_whose_centre_they_hold(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    edge = st.integers(0, 60).map(lambda n: n / 4)
    left, right = sorted(data.draw(st.lists(edge, min_size=2, max_size=2, unique=True)))
    top, bottom = sorted(data.draw(st.lists(edge, min_size=2, max_size=2, unique=True)))
    path = tmp_path_factory.getbasetemp() / "any_box.csv"
    make = read_boxes(write(path, f"{ROW}a,ring,{left},{top},{right},{bottom}")).images["a"]
    y, x = np.mgrid[:16, :16] + 0.5
    inside = (y >= top) & (y < bottom) & (x >= left) & (x < right)
    if inside.any():
        np.testing.assert_array_equal(make(16, 16)[0][0], inside)
    else:
        with pytest.raises(ValueError, match="covers no pixel"):
            make(16, 16)


@given(st.lists(st.tuples(*[st.integers(-20, 100)] * 2), min_size=3, max_size=12))
def test_outlines_fill_what_a_ray_from_the_left_finds_inside(
    tmp_path_factory: pytest.TempPathFactory, points: list[tuple[int, int]]
) -> None:
    """Corners at thirds of pixels, so that no centre lies on an edge that is a rounding away."""
    corners = np.asarray(points) / 3 + 0.01
    folder = tmp_path_factory.mktemp("labelme")
    shape = {"label": "ring", "points": corners.tolist(), "shape_type": "polygon"}
    write(folder / "a.json", json.dumps({"shapes": [shape]}))
    y, x = np.mgrid[:24, :24] + 0.5
    crossings = np.zeros((24, 24), int)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, 0), strict=True):
        between = (y0 <= y) != (y1 <= y)
        with np.errstate(divide="ignore", invalid="ignore"):
            crossings += between & (x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x)
    make = read_labelme(folder).images["a"]
    if (crossings % 2).any():
        np.testing.assert_array_equal(make(24, 24)[0][0], crossings % 2)
    else:
        with pytest.raises(ValueError, match="covers no pixel"):
            make(24, 24)


# --- image-level labels and masks --------------------------------------------------------------


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("comma", [",", ";", "\t"])
def test_tables_in_all_dialects(comma, mark, tmp_path) -> None:
    lines = ["File, ring ,fibre", "sub\\a.tif,1,0", "", "café.tif,1.0,1"]
    found = read_table(write(tmp_path / "t.csv", mark + "\r\n".join(lines).replace(",", comma)))
    assert found.classes == ("ring", "fibre")
    assert {name: make(9, 9)[0].tolist() for name, make in found.images.items()} == {
        "sub/a.tif": [1, 0], "café.tif": [1, 1],
    }
    assert image_key("cafe\u0301.tif") in found.images  # as macOS writes it


def test_what_excel_leaves(tmp_path) -> None:
    table = write(tmp_path / "t.csv", "sep=;\nfile;ring;;\na.tif;1;;\nb.tif;0;;\n;;;\n")
    found = read_table(table)
    assert found.classes == ("ring",) and set(found.images) == {"a.tif", "b.tif"}


def test_hidden_folders_are_left_out(tmp_path) -> None:
    for name in ("ring/a.png", ".thumbnails/a.png", "ring/.b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list(read_masks(tmp_path, ["ring"]).images) == ["ring/a"]


def test_masks_of_classes(tmp_path) -> None:
    label = drawn()
    mask = np.where(label[1] > 0, 2, label[0] > 0).astype(np.uint8)
    Image.fromarray(mask).save(tmp_path / "a.png")
    found, boxes = read_masks(tmp_path, ["fibre", "ring"]).images["a"](*SIZE)
    np.testing.assert_array_equal(found > 0, [mask == 1, mask == 2])
    assert boxes is None and [len(np.unique(plane)) - 1 for plane in found] == [1, 2]
    with pytest.raises(ValueError, match="holds 2 values up to 2 for 1 classes"):
        read_masks(tmp_path, ["fibre"]).images["a"](*SIZE)
    with pytest.raises(ValueError, match="make them alike"):
        read_masks(tmp_path, ["fibre", "ring"]).images["a"](12, 17)


def test_masks_of_one_class_and_of_objects(tmp_path) -> None:
    mask = np.zeros(SIZE, np.uint8)
    mask[2:4, 2:4] = mask[4, 4] = mask[8, 8] = 255
    Image.fromarray(mask).save(tmp_path / "a.png")
    [found], _ = read_masks(tmp_path, ["ring"]).images["a"](*SIZE)
    assert found.max() == 2 and ((found > 0) == (mask > 0)).all()
    ids = np.where(mask, 70_000, 0).astype(np.uint32)
    ids[2, 2] = 900  # touches another object
    tifffile.imwrite(tmp_path / "b.tif", ids)
    [found], _ = read_masks(tmp_path, ["ring"], instances=True).images["b"](*SIZE)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, np.select([ids == 900, ids > 0], [1, 2]))


# --- ImageJ and polygons -----------------------------------------------------------------------


def roi(kind: str, **options) -> roifile.ImagejRoi:
    made = roifile.ImagejRoi()
    made.roitype, made.name, made.version = roifile.ROI_TYPE[kind], options.pop("name", "ring"), 228
    for name, value in options.items():
        setattr(made, name, value)
    return made


def test_ovals_and_rectangles_of_imagej(tmp_path) -> None:
    edges = {"top": 10, "left": 20, "bottom": 50, "right": 80}
    roi("OVAL", **edges).tofile(tmp_path / "oval.roi")
    roi("RECT", **edges).tofile(tmp_path / "rect.roi")
    found = read_rois(tmp_path).images
    [oval], _ = found["oval"](100, 100)
    [rect], _ = found["rect"](100, 100)
    y, x = np.mgrid[:100, :100] + 0.5
    ellipse = ((y - 30) / 20) ** 2 + ((x - 50) / 30) ** 2 < 1
    assert (oval.astype(bool) != ellipse).sum() < 10 and oval.any()
    assert rect.sum() == 40 * 60 and rect[10:50, 20:80].all()


def test_compound_rois_have_holes(tmp_path) -> None:
    def path(*edges):  # move, three lines, close
        moves = [(min(n, 1), x, y) for n, (x, y) in enumerate(corners(*edges))]
        return [*np.ravel(moves), 4]

    steps = np.asarray(path(1, 1, 9, 9) + path(3, 3, 6, 6), np.float32)
    made = roi("RECT", top=1, left=1, bottom=9, right=9, multi_coordinates=steps,
               shape_roi_size=len(steps))
    made.tofile(tmp_path / "a.roi")
    [label], _ = read_rois(tmp_path).images["a"](*SIZE)
    expected = np.zeros(SIZE, np.uint16)
    expected[1:9, 1:9], expected[3:6, 3:6] = 1, 0
    np.testing.assert_array_equal(label, expected)


def test_zip_packed_by_a_mac(tmp_path) -> None:
    square = roi("RECT", name="", top=1, left=1, bottom=9, right=9)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("ring-1.ROI", square.tobytes())
        archive.writestr("__MACOSX/._ring-1.ROI", b"Mac OS X")
    found = read_rois(tmp_path)
    assert found.classes == ("ring",) and found.images["a"](12, 12)[0].max() == 1


@pytest.mark.parametrize(
    ("kind", "name", "words"), [("LINE", "ring", "no area"), ("POINT", "ring", "no area"),
                                ("RECT", "0012-0034", "names no class"),
                                ("RECT", "a", "a names no class"),  # as its file
                                ("RECT", "", "names no class")],
)
def test_rois_that_outline_nothing_or_have_no_name(kind, name, words, tmp_path) -> None:
    roi(kind, name=name, top=1, left=1, bottom=9, right=9).tofile(tmp_path / "a.roi")
    with pytest.raises(ValueError, match=words):
        read_rois(tmp_path)
    if kind == "RECT":
        assert read_rois(tmp_path, "ring").classes == ("ring",)


# --- what is refused ---------------------------------------------------------------------------

WRONG = [
    (read_table, "file,ring\na.tif,2\n", "line 2: write 1"),
    (read_table, "file,ring\na.tif,yes\n", "line 2: 'yes'"),
    (read_table, "file,ring\na.tif,nan\n", "line 2: 'nan'"),
    (read_table, "file,ring\na.tif,1\nA.tif,1\na.tif,0\n", "line 4 names no image, or one"),
    (read_table, "file,ring\na.tif\n", "line 2 has 1 cells"),
    (read_table, "file,ring,Ring\na.tif,1,1\n", "a name of its own"),
    (read_table, "name,ring\na.tif,1\n", "the first line must be"),
    (read_table, "file,ring\n", "no line after the header"),
    (read_table, "", "no line after the header"),
    (read_table, "file,größe\na.tif,1\n", "CSV UTF-8"),
    (read_table, 'file,ring\n"a.tif,1\n', "unexpected end"),
    (read_boxes, ROW + "a.tif,ring,5,5,4,9\n", "line 2: a box needs"),
    (read_boxes, ROW + "a.tif,,1,1,4,9\n", "line 2: a box needs"),
    (read_boxes, ROW + "a.tif,ring,-inf,5,4,9\n", "no usable number"),
    (read_boxes, ROW + "a.tif,ring,1e300,5,4,9\n", "no usable number"),
    (read_boxes, "file,class,x,y,w,h\na.tif,ring,1,1,4,9\n", "the first line must be"),
    (read_coco, "[]", "not of the expected form"),
    (read_coco, "{", "Expecting"),
    (read_coco, "[" * 100_000, "not of the expected form"),
    (read_coco, json.dumps(coco(False) | {"images": []}), "does not list"),
    (read_coco, json.dumps(coco(True)).replace('"bbox"', '"iscrowd": 1, "bbox"'), "is a crowd"),
    (read_coco, json.dumps(coco(False) | {"images": [{"id": 1}, {"id": 1}]}), "same id"),
    (read_coco, json.dumps(coco(False)).replace('"bbox": [2', '"bbox": [NaN'), "no usable number"),
    (read_coco, json.dumps(coco(True)).replace('"segmentation": [[', '"segmentation": [[1,'),
     "a coordinate too much"),
    (read_coco, json.dumps(coco(False)).replace("[]", '{"counts": [5]}'), "0 lacks 'size'"),
    (read_coco, json.dumps(coco(False)).replace("[]", '{"counts": [5, -5], "size": [1, 0]}'),
     "runs that do not fill"),
    (read_coco, json.dumps(coco(False)).replace("[]", '{"counts": "zzzz", "size": [12, 16]}'),
     "runs that do not fill|not of the expected form"),
]


@pytest.mark.parametrize(("reader", "text", "words"), WRONG)
def test_wrong_entries_are_named(reader, text, words, tmp_path) -> None:
    path = write(tmp_path / "labels", text, "latin-1")
    with pytest.raises(ValueError, match=words) as caught:
        reader(path)
    assert str(path) in str(caught.value)


def test_all_faults_of_a_file_are_listed(tmp_path) -> None:
    rows = "a.tif,2\nb.tif,1\nc.tif,yes\nd.tif\nb.tif,0\n"
    with pytest.raises(ValueError) as caught:
        read_table(write(tmp_path / "t.csv", "file,ring\n" + rows))
    lines = str(caught.value).splitlines()
    assert len(lines) == 5 and all(any(f"line {n}" in line for line in lines) for n in (2, 4, 5, 6))
    content = coco(True)
    content["annotations"][0]["category_id"] = 9
    del content["annotations"][2]["image_id"]
    with pytest.raises(ValueError, match="annotation 0 names(.|\n)*annotation 2 lacks 'image_id'"):
        read_coco(write(tmp_path / "c.json", json.dumps(content)))
    with pytest.raises(ValueError, match="… and 80 more"):
        read_boxes(write(tmp_path / "b.csv", ROW + "a.tif,ring,5,5,4,9\n" * 100))


@pytest.mark.parametrize(("edges", "area"), [("-3,1,5,5", 20), ("1,1,5,14", 44), ("1,1,18,5", 60),
                                             ("-9,-9,99,99", 192)])
def test_of_boxes_over_the_border_the_inner_part_counts(edges, area, tmp_path) -> None:
    found = read_boxes(write(tmp_path / "b.csv", f"{ROW}a.tif,ring,{edges}\n"))
    label, boxes = found.images["a.tif"](*SIZE)
    _, top, left, bottom, right = boxes[0]
    assert label.sum() == area == (bottom - top) * (right - left)


@pytest.mark.parametrize("edges", ["-5,1,0,5", "1,12,5,14", "20,1,25,5"])
def test_boxes_outside_the_image_are_refused(edges, tmp_path) -> None:
    found = read_boxes(write(tmp_path / "b.csv", f"{ROW}a.tif,ring,{edges}\n"))
    with pytest.raises(ValueError, match=r"a\.tif: the ring at row .* outside the image"):
        found.images["a.tif"](*SIZE)


def test_images_of_another_size_than_annotated_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="was annotated as"):
        as_coco(tmp_path).images["a.tif"](16, 12)


@pytest.mark.parametrize("reader", [read_table, read_boxes, read_coco, read_rois, read_labelme,
                                    read_geojson,
                                    lambda path: read_masks(path, ["a"])])
def test_missing_files_and_folders(reader, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="check the path"):
        reader(tmp_path / "none")


@pytest.mark.parametrize("make", FORMATS, ids=lambda make: make.__name__)
def test_damaged_files_give_an_error_or_a_label(make, tmp_path) -> None:
    """1,200 damaged files."""
    make(tmp_path)
    path = next(path for path in tmp_path.iterdir() if "none" not in path.name)
    reader = {as_boxes: read_boxes, as_rois: read_rois, as_labelme: read_labelme,
              as_geojson: read_geojson}.get(make, read_coco)
    before, errors = sorted(tmp_path.iterdir()), 0
    for changed in damaged(path.read_bytes(), 200):
        path.write_bytes(changed)
        try:
            found = reader(path if reader in (read_boxes, read_coco) else tmp_path)
            for draw in found.images.values():
                label, _ = draw(*SIZE)
                assert label.shape == (len(found.classes), *SIZE) and label.dtype == np.uint16
        except ValueError:
            errors += 1
    assert errors > 20 and sorted(tmp_path.iterdir()) == before


# --- overlaps ----------------------------------------------------------------------------------


@given(st.permutations([(0, 0, 16, 12), (2, 2, 10, 10), (3, 3, 6, 6), (12, 1, 15, 4)]))
def test_an_object_within_another_is_not_lost(
    tmp_path_factory: pytest.TempPathFactory, boxes: list[tuple[int, ...]]
) -> None:
    rows = "".join("a.tif,ring,{},{},{},{}\n".format(*box) for box in boxes)
    found = read_boxes(write(tmp_path_factory.getbasetemp() / "nested.csv", ROW + rows))
    [label], drawn_boxes = found.images["a.tif"](*SIZE)
    areas = {(0, 0, 16, 12): 192 - 64 - 9, (2, 2, 10, 10): 64 - 9, (3, 3, 6, 6): 9,
             (12, 1, 15, 4): 9}
    assert np.bincount(label.ravel()).tolist() == [0, *(areas[box] for box in boxes)]
    assert len(drawn_boxes) == 4


def test_doubles_are_a_fault(tmp_path) -> None:
    rows = "a.tif,ring,2,2,6,6\na.tif,fibre,2,2,6,6\na.tif,ring,2,2,6,6\n"
    with pytest.raises(ValueError, match=r"a\.tif: the ring at row 2, column 2 lies there twice"):
        read_boxes(write(tmp_path / "b.csv", ROW + rows)).images["a.tif"](*SIZE)


# --- layouts that people have ------------------------------------------------------------------


def test_empty_cells_are_unknown(tmp_path) -> None:
    rows = "file,ring,fibre\na.tif,1,\nb.tif,0,1\nc.tif,,\nd.tif,,0\n"
    found = read_table(write(tmp_path / "t.csv", rows))
    labels = {name: make(9, 9)[0] for name, make in found.images.items()}
    assert {*labels} == {"a.tif", "b.tif", "d.tif"}
    np.testing.assert_array_equal(labels["a.tif"], np.float32([1, np.nan]))
    np.testing.assert_array_equal(labels["b.tif"], np.float32([0, 1]))
    assert all(label.dtype == np.float32 for label in labels.values())


def test_a_file_named_by_an_ending_alone_is_an_image(tmp_path: Path) -> None:
    for name in ("_mask.png", "a.png", "a_mask.png"):
        (tmp_path / name).touch()
    assert [path.name for path in image_files(tmp_path)] == ["_mask.png", "a.png"]


@pytest.mark.parametrize("ending", ["_masks", "_cp_masks", "_mask", "_label"])
def test_masks_among_the_images(ending, tmp_path) -> None:
    for name in ("a", "b.c"):
        Image.fromarray(np.full(SIZE, 9, np.uint8)).save(tmp_path / f"{name}.png")
        Image.fromarray(np.eye(*SIZE, dtype=np.uint8)).save(tmp_path / f"{name}{ending}.png")
    found = read_masks(tmp_path, ["ring"])
    assert {*found.images} == {"a", "b.c"} and len(found.files) == 2
    assert found.images["a"](*SIZE)[0].sum() == 12


def test_masks_of_the_folder_where_one_is(tmp_path, monkeypatch) -> None:
    Image.fromarray(np.eye(*SIZE, dtype=np.uint8)).save(tmp_path / "a_masks.png")
    monkeypatch.chdir(tmp_path)
    assert {*read_masks(".", ["ring"]).images} == {"a"}


def test_one_file_for_each_object(tmp_path) -> None:
    """As in the Data Science Bowl 2018."""
    for name in ("x1", "x2"):
        for kind, number, place in (("images", 0, None), ("masks", 1, np.s_[0:4, 0:4]),
                                    ("masks", 2, np.s_[2:4, 2:4])):
            pixels = np.zeros(SIZE, np.uint8)
            if place:
                pixels[place] = 255
            path = tmp_path / name / kind / f"{name if kind == 'images' else number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    found = read_masks(tmp_path, ["ring"])
    assert {*found.images} == {"x1/images/x1", "x2/images/x2"} and len(found.files) == 4
    label, _ = found.images["x1/images/x1"](*SIZE)
    assert np.bincount(label.ravel()).tolist() == [12 * 16 - 16, 12, 4]
    with pytest.raises(ValueError, match="one class"):
        read_masks(tmp_path, ["ring", "fibre"])


def test_folders_of_masks_beside_folders_of_images(tmp_path) -> None:
    for place in ("day1/images", "day1/masks", "day2/images", "day2/masks"):
        (tmp_path / place).mkdir(parents=True)
        for name in ("a", "b"):
            Image.fromarray(np.eye(*SIZE, dtype=np.uint8)).save(tmp_path / place / f"{name}.png")
    found = read_masks(tmp_path, ["ring"])
    assert {*found.images} == {f"day{n}/images/{name}" for n in (1, 2) for name in "ab"}
    assert {path.parent.name for path in found.files} == {"masks"} and len(found.files) == 4


def test_cellpose_is_told_how_to_export(tmp_path) -> None:
    np.save(tmp_path / "a_seg.npy", {"masks": 1}, allow_pickle=True)
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="Save masks as PNG"):
        read_masks(tmp_path, ["ring"])


def compressed(runs: list[int]) -> str:
    """COCO's packing of runs, by its description."""
    text = ""
    for n, run in enumerate(runs):
        value = run - runs[n - 2] if n > 2 else run
        more = True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text += chr(48 + bits + 32 * more)
    return text


@given(st.lists(st.booleans(), min_size=192, max_size=192), st.booleans())
def test_run_length_encoded_masks(
    tmp_path_factory: pytest.TempPathFactory, pixels: list[bool], packed: bool
) -> None:
    mask = np.reshape(pixels, SIZE)
    flat = np.concatenate([[False], mask.T.ravel(), [not mask[-1, -1]]])
    runs = np.diff(np.flatnonzero(np.diff(flat)), prepend=0).tolist()
    content = coco(False) | {"annotations": [
        {"id": 1, "image_id": 1, "category_id": 3, "bbox": [0, 0, 0, 0],
         "segmentation": {"size": SIZE, "counts": compressed(runs) if packed else runs}}]}
    path = write(tmp_path_factory.getbasetemp() / "rle.json", json.dumps(content))
    make = read_coco(path).images["a.tif"]
    if mask.any():
        np.testing.assert_array_equal(make(*SIZE)[0][1], mask)
    else:
        with pytest.raises(ValueError, match="covers no pixel"):
            make(*SIZE)


@pytest.mark.parametrize(("stored", "key"), [
    ("/data/local-files/?d=set/a%20b.png", "set/a b.png"), ("s3://bucket/set/a.png", "set/a.png"),
    ("https://host/set/a.png?token=1", "set/a.png"), ("C:\\set\\a.png", "C:/set/a.png"),
    ("set/a?.png", "set/a?.png"),
])  # fmt: skip
def test_addresses_in_stores(stored, key, tmp_path) -> None:
    content = coco(False)
    content["images"][0]["file_name"] = stored
    assert key in read_coco(write(tmp_path / "c.json", json.dumps(content))).images


def test_labelme_circles_and_what_is_no_area(tmp_path) -> None:
    circle = {"label": "ring", "points": [[8, 6], [8, 1]], "shape_type": "circle"}
    write(tmp_path / "a.json", json.dumps({"shapes": [circle]}))
    [label], _ = read_labelme(tmp_path).images["a"](*SIZE)
    y, x = np.mgrid[:12, :16] + 0.5
    np.testing.assert_array_equal(label, (y - 6) ** 2 + (x - 8) ** 2 < 25)
    line = {"label": "ring", "points": [[1, 1], [2, 2]], "shape_type": "line"}
    write(tmp_path / "a.json", json.dumps({"shapes": [line, line, circle | {"label": " "}]}))
    with pytest.raises(ValueError, match="shape 1 is a line(.|\n)*shape 2(.|\n)*3 has no label"):
        read_labelme(tmp_path)


def test_geojson_has_holes(tmp_path) -> None:
    rings = [corners(1, 1, 9, 9), corners(3, 3, 6, 6)]
    item = {"geometry": {"type": "Polygon", "coordinates": rings}, "properties": {"name": "ring"}}
    write(tmp_path / "a.geojson", json.dumps([item]))
    [label], _ = read_geojson(tmp_path).images["a"](*SIZE)
    assert label.sum() == 64 - 9 and not label[3:6, 3:6].any()
    write(tmp_path / "a.geojson", json.dumps([item | {"properties": None}]))
    with pytest.raises(ValueError, match="feature 1 has no classification"):
        read_geojson(tmp_path)
    assert read_geojson(tmp_path, "cell").classes == ("cell",)


def test_geojson_says_class_and_plane(tmp_path) -> None:
    square = {"type": "Polygon", "coordinates": [corners(1, 1, 9, 9)]}
    item = {"geometry": square, "properties": {"classification": {"names": ["ring", "dim"]}}}
    write(tmp_path / "a.geojson", json.dumps([item]))
    assert read_geojson(tmp_path).classes == ("ring: dim",)
    deeper = item | {"geometry": square | {"plane": {"c": -1, "z": 3, "t": 0}}}
    write(tmp_path / "a.geojson", json.dumps([deeper, item | {"geometry": None}]))
    with pytest.raises(ValueError, match="1 is of another plane(.|\n)*feature 2 is a blank"):
        read_geojson(tmp_path)


def test_labelme_rectangles_may_be_turned(tmp_path) -> None:
    diamond = {"label": "ring", "points": [[8, 1], [13, 6], [8, 11], [3, 6]]}
    for form in ("rotation", "rectangle", "polygon"):
        write(tmp_path / "a.json", json.dumps({"shapes": [diamond | {"shape_type": form}]}))
        [label], _ = read_labelme(tmp_path).images["a"](*SIZE)
        assert label.sum() == 50 and not label[2, 4]
    write(tmp_path / "a.json", json.dumps({"shapes": [diamond | {"label": None}]}))
    with pytest.raises(ValueError, match="shape 1 has no label"):
        read_labelme(tmp_path)


@pytest.mark.parametrize(("options", "words"), [
    ({"options": roifile.ROI_OPTIONS.SPLINE_FIT}, "fitted spline"),
    ({"rounded_rect_arc_size": 3}, "rounded corners"), ({"z_position": 2}, "another plane"),
])  # fmt: skip
def test_what_a_roi_says_of_its_shape_is_not_dropped(options, words, tmp_path) -> None:
    edges = {"top": 1, "left": 1, "bottom": 9, "right": 9}
    roi("RECT", **edges, **options).tofile(tmp_path / "a.roi")
    with pytest.raises(ValueError, match=words):
        read_rois(tmp_path)


def test_one_class_in_two_spellings_is_one(tmp_path) -> None:
    rows = "a.tif,größe,1,1,4,4\na.tif,gro\u0308ße,5,5,8,8\n"
    found = read_boxes(write(tmp_path / "b.csv", ROW + rows))
    assert found.classes == ("größe",) and found.images["a.tif"](*SIZE)[0].max() == 2
    with pytest.raises(ValueError, match="a name of its own"):
        read_table(write(tmp_path / "t.csv", "file,größe,gro\u0308ße\na.tif,1,0\n"))
