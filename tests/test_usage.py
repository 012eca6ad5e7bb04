"""How a network is to be used: the record, datasets, the explorer and zoos."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import torch
from bright import bright_model
from conftest import random_images, random_model

from micranet_helpers import zoo
from micranet_helpers.data import ctc, dataset, em, mnist, own, pvivax
from micranet_helpers.data.own import read_table
from micranet_helpers.explore import Session, recipe
from micranet_helpers.predict import find, open_zoo
from micranet_helpers.zoo import Usage, shelf
from micranet_helpers.zoo.usage import facts

FULL = Usage(("cell", "contact"), "range", (100,), (0.01,), "uint16", ("DAPI",), 0.2, 24, 64, 2.0,
             "self-trained", (0.5, -1))  # fmt: skip


# --- the record --------------------------------------------------------------------------------


def test_text_keeps_everything_and_later_fields_do_no_harm() -> None:
    assert Usage.of_text(FULL.text) == FULL
    later = {**json.loads(FULL.text), "colour": "red"}
    assert Usage.of_text(json.dumps(later)) == FULL
    assert ("pixel size um", "0.2") in facts(FULL) and ("levels", "0.5, -1") in facts(FULL)
    assert [name for name, _ in facts(Usage(("a",)))] == [
        "classes", "scaling", "magnification", "recipe"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"classes": ()}, "classes need different names"),
        ({"classes": ("a", "a")}, "classes need different names"),
        ({"scaling": "log"}, "no scaling 'log', only fixed"),
        ({"scaling": "range"}, "an offset and a factor of each channel"),
        ({"offset": (1,)}, "an offset and a factor of each channel"),
        ({"offset": (1,), "factor": (np.nan,)}, "NaN"),
        ({"objects": ("a", "b")}, "no class 'b' to be found"),
        ({"levels": (0, 0)}, "1 classes need as many levels"),
        ({"magnification": 0}, "magnification must be above 0"),
        ({"pixel_size_um": np.inf}, "pixel_size_um must be above 0"),
    ],
)
def test_usage_that_makes_no_sense_is_refused(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Usage(**{"classes": ("a",), **values})


def test_range_is_the_same_for_all_images() -> None:
    image = np.arange(100, 112, dtype=np.uint16).reshape(1, 3, 4)
    np.testing.assert_allclose(FULL.scaled(image), (image - 100.0) / 100, rtol=1e-6)
    assert not FULL.scaled(np.full((1, 3, 4), 100, np.uint16)).any()


def test_scalings_by_hand() -> None:
    image = np.stack([np.arange(600).reshape(30, 20) % 251, np.full((30, 20), 7)]).astype(np.uint8)
    fixed, minmax, standard = (Usage(("a",), how).scaled(image)
                               for how in ("fixed", "minmax", "standard"))  # fmt: skip
    np.testing.assert_allclose(fixed, image / 255, rtol=1e-6)
    deep, real = image.astype(np.uint16), image.astype(np.float32)
    np.testing.assert_allclose(Usage(("a",)).scaled(deep), image / 65535, rtol=1e-6)
    np.testing.assert_array_equal(Usage(("a",)).scaled(real), real)
    np.testing.assert_allclose(minmax[0], image[0] / 250, atol=1e-6)
    assert abs(standard[0].mean()) < 1e-5 and standard[0].std() == pytest.approx(1, abs=1e-5)
    assert not minmax[1].any() and not standard[1].any()


# --- datasets ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "scaling"), [(ctc, "minmax"), (pvivax, "standard"), (em, "fixed"), (mnist, "fixed")]
)
def test_datasets_of_ours_say_how_their_images_were_scaled(module, scaling, tmp_path) -> None:
    path = module.build(tmp_path / "made.hdf5", "simulated", num_images=3, size=64)
    usage = Usage.of_dataset(path, side=32)
    assert (usage.scaling, usage.side) == (scaling, 32)
    assert usage.classes == dataset.describe(path)[0].classes
    for sample in dataset.read(path, "training"):
        assert usage.dtype == str(sample.image.dtype)
        np.testing.assert_allclose(usage.scaled(sample.image), sample.pixels, atol=1e-6)


@pytest.fixture
def found(tmp_path: Path) -> own.Survey:
    """Six images of 16 bits: a bright square on every second one, else dim noise."""
    folder, rows = tmp_path / "images", ["file,square"]
    folder.mkdir()
    for number in range(6):
        pixels = np.random.default_rng(number).integers(100, 200, (48, 48), np.uint16)
        pixels[16:32, 16:32] = 4000 if number % 2 else pixels[16:32, 16:32]
        tifffile.imwrite(folder / f"{number}.tif", pixels)
        rows.append(f"{number}.tif,{number % 2}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    return own.survey(folder, read_table(tmp_path / "labels.csv"))


@pytest.mark.parametrize("how", ["range", "minmax", "standard"])
def test_own_images_are_scaled_alike_in_the_dataset_and_by_the_usage(found, tmp_path, how) -> None:
    path = own.build(tmp_path / "own.hdf5", found, source="here", licence="CC0", pixel_size_um=0.2,
                     normalisation=how)  # fmt: skip
    usage = Usage.of_dataset(path)
    assert (usage.scaling, usage.pixel_size_um, usage.dtype) == (how, 0.2, "uint16")
    assert Usage.of_dataset(path, classes=["dot"], levels=[1]).classes == ("dot",)
    for sample in dataset.read(path, "training"):
        np.testing.assert_allclose(usage.scaled(sample.image), sample.pixels, atol=1e-6)


def test_a_dataset_that_does_not_say_its_scaling_is_refused(found, tmp_path) -> None:
    path = own.build(tmp_path / "own.hdf5", found, source="here", licence="CC0",
                     normalisation="minmax")  # fmt: skip
    with h5py.File(path, "r+") as file:
        del file.attrs["scaling"]
    with pytest.raises(ValueError, match="does not say how its images were scaled"):
        Usage.of_dataset(path)
    assert Usage.of_dataset(path, scaling="minmax").scaling == "minmax"


# --- the explorer ------------------------------------------------------------------------------


def test_the_explorer_finds_nothing_on_an_empty_image(found, tmp_path: Path) -> None:
    """Scaled by its own numbers, as before, the noise of an empty image is as bright as cells."""
    path = own.build(tmp_path / "own.hdf5", found, source="here", licence="CC0")
    zoo.save(tmp_path / "zoo.hdf5", "MICRANet", bright_model(), {"size": 48},
             usage=Usage.of_dataset(path))  # fmt: skip
    empty, shows = (
        Session(tmp_path / "zoo.hdf5", "MICRANet", found.folder / f"{n}.tif") for n in (0, 1)
    )
    assert list(shows.predicted) == [0] and shows.count
    with pytest.raises(ValueError, match="No class is predicted"):
        print(empty.count)
    empty.choose(scaling="minmax")
    assert empty.count
    for change in ({}, {"how": "evidence"}):
        shows.choose(**change)
        there: dict = {}
        exec(recipe(shows), there)
        np.testing.assert_array_equal(there["labels"], shows.labels)
    masks = find(open_zoo(tmp_path / "zoo.hdf5"), shows.raw, ["evidence"])["evidence"].masks
    np.testing.assert_array_equal(shows.mask, masks[0], "the explorer marks what predict marks")


# --- files of networks -------------------------------------------------------------------------


def test_zoo_keeps_the_usage_and_old_zoos_have_none(tmp_path: Path) -> None:
    path = tmp_path / "zoo.hdf5"
    zoo.save(path, "MICRANet", random_model(1, 2), {}, usage=FULL)
    zoo.save(path, "old", random_model(1, 2), {})
    assert zoo.load(path, "MICRANet").usage == FULL and zoo.load(path, "old").usage is None
    with h5py.File(path, "r+") as file:
        file["MICRANet"].attrs["usage"] = "{"
    with pytest.raises(ValueError, match="note on how it is to be used is damaged"):
        zoo.load(path, "MICRANet")


@pytest.mark.parametrize("network", [{"num_classes": 3}, {"in_channels": 2, "num_classes": 2}])
def test_a_usage_of_another_network_is_refused(tmp_path: Path, network: dict) -> None:
    usage = Usage(("a", "b"), "range", (0, 0, 0), (1, 1, 1))
    with pytest.raises(ValueError, match="usage names 2 classes.*channels and"):
        zoo.save(tmp_path / "zoo.hdf5", "MICRANet", random_model(**network), {}, usage=usage)


def test_half_precision_halves_the_file_and_hardly_moves_the_logits(tmp_path: Path) -> None:
    model = random_model()
    for name, half in (("single", False), ("half", True)):
        zoo.save(tmp_path / name, "MICRANet", model, {}, half=half)
    assert (tmp_path / "half").stat().st_size < 0.53 * (tmp_path / "single").stat().st_size
    [loaded] = zoo.load(tmp_path / "half", "MICRANet").models
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}
    images = random_images(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), model(images), atol=0.02, rtol=0.01)
    with torch.no_grad():
        model.linear1.weight[0, 0] = 1e6
    with pytest.raises(ValueError, match="infinite"):
        zoo.save(tmp_path / "large", "MICRANet", model, {}, half=True)


# --- networks that ship ------------------------------------------------------------------------


def test_networks_are_found_by_name_or_path(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(shelf, "SHELF", tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert zoo.shipped() == {} and zoo.locate("~/my.hdf5") == tmp_path / "my.hdf5"
    (tmp_path / "cells.hdf5").touch()
    assert zoo.locate("shipped:cells") == zoo.shipped()["cells"] == tmp_path / "cells.hdf5"
    with pytest.raises(ValueError, match="No network nuclei ships.*shipped:cells"):
        zoo.locate("shipped:nuclei")
