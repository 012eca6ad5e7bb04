"""The published layouts beside that of test_zoo: U-Nets, lists, Ilastik."""

import json
import os
import re

import h5py
import numpy as np
import pytest
import torch
from conftest import random_images
from damage import damaged, elsewhere, link, virtual
from hypothesis import given, settings
from hypothesis import strategies as st
from test_unet import expected_shapes
from test_zoo import published_weights, write

from micranet_helpers import zoo
from micranet_helpers.files import hdf5
from micranet_helpers.networks.micranet import MICRANet
from micranet_helpers.networks.unet import FalkUNet, UNet
from micranet_helpers.zoo.architectures import MOST

MNIST = {"in_channels": 1, "num_classes": 10, "number_filter": 5, "depth": 5, "size": 256}


def unet_weights(rng, *sizes):
    """Make the entries of a U-Net (channels, classes, depth, filters), with random numbers."""
    weights = {}
    for key, shape in expected_shapes(*sizes).items():
        counts = key.endswith("num_batches_tracked")
        weights[key] = np.int64(9) if counts else rng.uniform(0.1, 0.5, shape).astype(np.float32)
    return weights


def architecture(file, name, params, *models, thresholds=None):
    """Write a group of a zoo: a model is a dict of arrays, or a list of them, which are folds."""
    group = file.create_group(name)
    group.attrs["trainer_params"] = json.dumps(params)
    if thresholds is not None:
        group.attrs["class_thresholds"] = np.array(thresholds)
    for number, weights in enumerate(models):
        model = group.create_group(f"2020010{number}-000000_42")
        if isinstance(weights, dict):
            write(model, weights)
        else:
            for fold, each in enumerate(weights):
                write(model.create_group(f"fold-{fold}"), each)
    return group


def assert_holds(model, weights):
    state = model.state_dict()
    assert state.keys() == weights.keys() and not model.training
    for key, value in weights.items():
        np.testing.assert_array_equal(state[key], value, err_msg=key)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# --- U-Nets in a zoo ---------------------------------------------------------------------------


@torch.no_grad()
def test_the_unet_of_actin_gives_logits(tmp_path, rng):
    weights = unet_weights(rng, 1, 2, 4, 16)
    weights["lastConv.weight"] *= 0
    weights["lastConv.bias"] = np.array([-3, 5], np.float32)
    params = {"size": 256, "model_params": {"in_channels": 1, "out_channels": 2, "depth": 4}}
    with h5py.File(tmp_path / "ActinModelZoo.hdf5", "w") as file:
        architecture(file, "UNet", params, weights)
    entry = zoo.load(tmp_path / "ActinModelZoo.hdf5", "UNet")
    [model] = entry.models
    assert_holds(model, weights)
    for plane, logit in zip(model(random_images(1, 1, 16, 16))[0], (-3, 5), strict=True):
        assert (plane == logit).all()
    assert entry.params == {
        "size": 256, "in_channels": 1, "out_channels": 2, "num_classes": 2, "depth": 4,
        "number_filter": 4,
    }  # fmt: skip


def test_the_unets_of_the_cells(tmp_path):
    group = "UNet-ALT5"
    weights = {key: value.numpy() for key, value in FalkUNet(1, 7, 2).state_dict().items()}
    with h5py.File(tmp_path / "CTCModelZoo.hdf5", "w") as file:
        architecture(file, group, {"size": 256, "model_params": {"num_classes": 7}}, weights)
    entry = zoo.load(tmp_path / "CTCModelZoo.hdf5", group)
    assert_holds(entry.models[0], weights)
    assert entry.params == {"size": 256, "in_channels": 1, "num_classes": 7}
    assert entry.models[0](random_images(1, 1, 16, 32)).shape == (1, 7, 16, 32)
    zoo.save(tmp_path / "again.hdf5", group, entry.models, entry.params)
    [again] = zoo.load(tmp_path / "again.hdf5", group).models
    assert isinstance(again, FalkUNet)
    assert_holds(again, weights)


def test_folds_of_unets_keep_their_order_and_weights_overrule_settings(tmp_path, rng):
    folds = [unet_weights(rng, 3, 2, 3, 4) for _ in range(3)]
    with h5py.File(tmp_path / "zoo.hdf5", "w") as file:
        wrong = {"in_channels": 1, "num_classes": 1, "number_filter": 5, "depth": 5, "size": 64}
        architecture(file, "UNet-FS", wrong, folds, thresholds=[0.25, 0.5])
    entry = zoo.load(tmp_path / "zoo.hdf5", "UNet-FS")
    for model, fold in zip(entry.models, folds, strict=True):
        assert_holds(model, fold)
    right = {"in_channels": 3, "num_classes": 2, "number_filter": 2, "depth": 3, "size": 64}
    assert entry.params == right
    assert entry.class_thresholds.tolist() == [0.25, 0.5]


@given(st.tuples(*[st.integers(1, n) for n in (3, 3, 4, 5)]), st.integers(1, 2))
@settings(max_examples=12)
def test_a_saved_unet_comes_back(tmp_path_factory, sizes, folds):
    path = tmp_path_factory.mktemp("saved") / "zoo.hdf5"
    models = [UNet(*sizes) for _ in range(folds)]
    zoo.save(path, "UNet", models, {"epochs": 3})
    entry = zoo.load(path, "UNet")
    for model, saved in zip(entry.models, models, strict=True):
        assert_holds(model, saved.state_dict())
    channels, classes, depth, filters = sizes
    expected = {"epochs": 3, "in_channels": channels, "num_classes": classes, "depth": depth}
    power = {1: 0, 2: 1, 4: 2}.get(filters)
    assert entry.params == expected | ({} if power is None else {"number_filter": power})
    zoo.save(path, "again", entry.models, entry.params)


def test_save_refuses_unets_that_do_not_belong_together(tmp_path):
    path = tmp_path / "zoo.hdf5"
    for other in (UNet(1, 2, 2, 5), UNet(1, 1, 3, 5), UNet(1, 1, 2, 6), MICRANet(1, 1)):
        with pytest.raises(ValueError, match="one kind with the same numbers"):
            zoo.save(path, "UNet", [UNet(1, 1, 2, 5), other], {})
    for key, value in {"depth": 3, "number_filter": 4, "num_classes": True}.items():
        with pytest.raises(ValueError, match=f"contradict the models.*'{key}'"):
            zoo.save(path, "UNet", UNet(1, 1, 2, 4), {key: value})
    with pytest.raises(ValueError, match="levels"):
        zoo.save(path, "UNet", UNet(1, 1, 11, 1), {})
    assert os.listdir(tmp_path) == []


def declared(shapes):
    """Change the declared shapes of a U-Net: nothing is stored, a file may claim any size."""

    def change(model):
        for key, shape in shapes.items():
            if key in model:
                del model[key]
            chunks = tuple(min(side, 10) for side in shape) or None
            model.create_dataset(key, shape, "f4", chunks=chunks)

    return change


FIRST = "firstConvolution.conv.0.weight"
BAD_UNETS = {
    "misshapen": (declared({"lastConv.bias": (3,)}), r"lastConv.bias has the shape \(3,\)"),
    "too many filters": (declared({FIRST: (10**4, 1, 3, 3)}), "sizes from 1 to 1000"),
    "too large": (declared(expected_shapes(1, 1, 4, 900)), "declares more than the file can"),
    "too deep": (declared({f"contractingPath.{i}.conv.1.conv.0.weight": (2, 1, 3, 3)
                           for i in range(60)}), "has 61 levels, at most 10"),
    "a level missing": (lambda m: m.__delitem__("contractingPath.0.conv.1.conv.0.weight"),
                        "no U-Net: missing.*unexpected.*contractingPath.0"),
    "many more": (lambda m: [m.create_group(str(i)) for i in range(MOST + 1)], "at most 1000"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_UNETS)
def test_bad_unets_are_refused_in_one_sentence(tmp_path, rng, case):
    change, message = BAD_UNETS[case]
    path = tmp_path / "zoo.hdf5"
    with h5py.File(path, "w") as file:
        group = architecture(file, "UNet", {}, unet_weights(rng, 1, 1, 2, 4))
        change(group["20200100-000000_42"])
    assert path.stat().st_size < 1e6
    with pytest.raises(ValueError, match=message) as caught:
        zoo.load(path, "UNet")
    assert f"'UNet' from {path}" in str(caught.value) and "\n" not in str(caught.value)


def test_folds_of_different_networks_are_refused(tmp_path, rng):
    unet = unet_weights(rng, 1, 1, 2, 4)
    path = tmp_path / "zoo.hdf5"
    for other in (unet_weights(rng, 1, 1, 3, 4), published_weights(rng)):
        with h5py.File(path, "w") as file:
            architecture(file, "UNet", {}, [unet, other])
        with pytest.raises(ValueError, match="networks of one kind"):
            zoo.load(path, "UNet")


def test_other_networks_are_named_by_what_was_found(tmp_path):
    name = "backbone.body.conv1.weight"  # Faster R-CNN, which finds boxes without masks
    with h5py.File(tmp_path / "CTCModelZoo.hdf5", "w") as file:
        architecture(file, "UNet-FS", {}, {name: np.ones((64, 1, 3, 3), np.float32)})
    with pytest.raises(ValueError, match=f"no MICRA-Net or U-Net.*1 arrays.*{name}"):
        zoo.load(tmp_path / "CTCModelZoo.hdf5", "UNet-FS")


# --- Lists -------------------------------------------------------------------------------------


def ilastik(file, name="Ilastik"):
    """Write what a pixel-classification project looks like: texts, groups, numbers, a soft link."""
    project = file.create_group(name)
    project.attrs["made by"] = "hand"
    project["workflowName"] = "Pixel Classification"
    project["ilastikVersion"] = b"1.3.3"
    labels = project.create_group("PixelClassification/LabelSets/labels000")
    labels.attrs["axes"] = "yxc"
    blocks = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    labels.create_dataset("block0000", data=blocks, chunks=True, compression="gzip")
    labels["block0000"].attrs["blockSlice"] = "[0:4,0:5,0:3]"
    project["PixelClassification/LabelNames"] = np.array([b"ring", b"fibre"])
    project["PixelClassification/near"] = h5py.SoftLink("LabelSets/labels000")
    project["PixelClassification/far"] = h5py.SoftLink(f"/{name}/workflowName")
    project["all"] = h5py.SoftLink(f"//{name}/.")
    project["labels"] = h5py.SoftLink("PixelClassification/LabelSets")
    project["gone"] = h5py.SoftLink("PixelClassification/nowhere")
    return project


@pytest.fixture
def full_zoo(tmp_path, rng):
    path = tmp_path / "Zoo.hdf5"
    rcnn = {"roi_heads.mask_head.mask_fcn1.weight": np.ones((2, 3, 3, 3), np.float32)}
    with h5py.File(path, "w") as file:
        ilastik(file, "Ilastik-FS")
        flat = {"num_input_images": 3, "num_classes": 1, "size": 512}
        one = published_weights(rng)
        architecture(file, "MICRANet-1:5", flat, one, thresholds=[0.5])
        nested = {"size": 256, "model_params": flat}
        architecture(file, "MICRANet-finetuned", nested, one, [one, one, one])
        architecture(file, "MaskRCNN-BBOX", {"model_params": {"num_classes": 7}}, rcnn)
        unet = architecture(file, "UNet", MNIST, unet_weights(rng, 1, 11, 4, 16))
        unet["link"] = h5py.SoftLink("20200100-000000_42")
        file["notes"] = "no group"
    return path


def test_contents_counts_what_is_there(full_zoo):
    rows = {(row.pop("group"), row.pop("model")): row for row in zoo.contents(full_zoo)}
    fields = ("folds", "arrays", "numbers", "in_channels", "num_classes", "class_thresholds")
    assert {tuple(row) for row in rows.values()} == {fields}
    first, second = "20200100-000000_42", "20200101-000000_42"
    micranet = 1_174_433 + 2 * 960 + 8  # learnable, running statistics, counts of batches
    assert {place: tuple(row.values()) for place, row in rows.items()} == {
        ("Ilastik-FS", None): (0, 4, 60, None, None, None),
        ("MICRANet-1:5", first): (1, 58, micranet, 3, 1, [0.5]),
        ("MICRANet-finetuned", first): (1, 58, micranet, 3, 1, None),
        ("MICRANet-finetuned", second): (3, 174, 3 * micranet, 3, 1, None),
        ("MaskRCNN-BBOX", first): (1, 1, 54, None, 7, None),
        ("UNet", first): (1, 106, 484_745, 1, 10, None),
    }


def test_contents_of_what_nobody_knows(tmp_path):
    """Attributes of any kind, links, data elsewhere, types without a name: counted or left out."""
    path = tmp_path / "zoo.hdf5"
    with h5py.File(path, "w") as file:
        file.create_group("empty")
        for key, value in {"a": "[1]", "b": [b"x"], "c": np.ones(3), "d": "{"}.items():
            group = file.create_group(f"odd-{key}")
            group.attrs["trainer_params"] = group.attrs["class_thresholds"] = value
            group["m/x"] = np.ones(2)
        file["odd-a/m/away"] = h5py.ExternalLink("other.hdf5", "/")
        file["odd-a/m/here"] = h5py.SoftLink("x")
        file["odd-a/m/type"] = np.dtype("f4")
        file["odd-a/m/none"] = h5py.Empty("f4")
        file["odd-a/m"].create_dataset("raw", (4,), "f4", external=[("/etc/passwd", 0, 16)])
        time = h5py.h5t.UNIX_D32LE  # numpy knows no such type
        h5py.h5d.create(file["odd-b/m"].id, b"time", time, h5py.h5s.create(h5py.h5s.SCALAR))
        file["away"] = h5py.ExternalLink("other.hdf5", "/")
    rows = zoo.contents(path)
    assert [(r["group"], r["arrays"], r["numbers"], r["class_thresholds"]) for r in rows] == [
        ("odd-a", 2, 2, None),
        ("odd-b", 2, 2, None),
        ("odd-c", 1, 2, [1, 1, 1]),
        ("odd-d", 1, 2, None),
    ]


def circle(group):
    group["a/up"] = group


def doubling(group):
    for _ in range(hdf5.DEEPEST - 2):
        below = group.create_group("left")
        group["right"] = below
        group = below


def deep(group):
    for _ in range(hdf5.DEEPEST + 2):
        group = group.create_group("below")


ENDLESS = {"circle": circle, "doubling": doubling, "deep": deep}


@pytest.mark.parametrize("case", ENDLESS)
def test_endless_nesting_comes_to_an_end(tmp_path, case, monkeypatch):
    monkeypatch.setattr(hdf5, "MEMBERS", 500)  # as 50 000, but sooner
    path = tmp_path / "zoo.hdf5"
    with h5py.File(path, "w") as file:
        ENDLESS[case](ilastik(file))
    message = "more than 500 members|more than 32 deep, or in a circle"
    with pytest.raises(ValueError, match=message) as caught:
        zoo.contents(path)
    assert "the list of models" in str(caught.value)
    with pytest.raises(ValueError, match=message):
        zoo.extract_ilastik(path, tmp_path / "project.ilp")
    assert os.listdir(tmp_path) == ["zoo.hdf5"]


@pytest.mark.slow
def test_contents_of_damaged_files_are_refused_or_listed(full_zoo):
    refused = 0
    # HDF5 itself reads for ever in a heap of texts that is filled with zeros.
    for spoilt in damaged(full_zoo.read_bytes(), 25, range(9, 6000), fill=False):
        full_zoo.write_bytes(spoilt)
        try:
            assert isinstance(zoo.contents(full_zoo), list)
        except ValueError as error:
            assert str(full_zoo) in str(error)
            refused += 1
    assert 5 <= refused < 25


# --- Ilastik -----------------------------------------------------------------------------------


def everything(group):
    """All values and attributes below a group, by their places."""
    found = {"": dict(group.attrs)}

    def add(place, item):
        value = np.asarray(item[()]).tolist() if isinstance(item, h5py.Dataset) else None
        found[place] = (value, dict(item.attrs), getattr(item, "compression", None))

    group.visititems(add)
    return found


def test_extracted_project_holds_all_and_nothing_else(full_zoo, tmp_path):
    zoo.extract_ilastik(full_zoo, tmp_path / "project.ilp")
    with h5py.File(full_zoo) as file, h5py.File(tmp_path / "project.ilp") as project:
        expected = everything(file["Ilastik-FS"])
        assert everything(project) == expected and len(expected) == 8
        assert project["PixelClassification/near/block0000"].shape == (4, 5, 3)
        assert project["PixelClassification/far"][()] == b"Pixel Classification"
        assert project["all"] == project["/"]
        link = project.get("PixelClassification/near", getlink=True)
        assert isinstance(link, h5py.SoftLink) and link.path == "LabelSets/labels000"
        for name in ("labels", "gone"):
            link = project.get(name, getlink=True)
            assert isinstance(link, h5py.SoftLink) and link.path.startswith("PixelClassification")


def test_the_group_must_be_clear(full_zoo, tmp_path):
    out = tmp_path / "project.ilp"
    with h5py.File(full_zoo, "a") as file:
        ilastik(file)["second"] = 1
    with pytest.raises(ValueError, match="2 groups.*out of Ilastik, Ilastik-FS, MICRA"):
        zoo.extract_ilastik(full_zoo, out)
    zoo.extract_ilastik(full_zoo, out, "Ilastik")
    with h5py.File(out) as project:
        assert project["second"][()] == 1
    out.unlink()
    for wrong in ("ilastik", "", "/Ilastik", "Ilastik/PixelClassification", "notes"):
        with pytest.raises(ValueError, match="Cannot load the Ilastik project"):
            zoo.extract_ilastik(full_zoo, out, wrong)
    assert not out.exists()


def test_projects_are_replaced_only_on_demand(full_zoo, tmp_path):
    out = tmp_path / "project.ilp"
    out.write_text("my work")
    with pytest.raises(FileExistsError, match="project.ilp exists.*overwrite=True"):
        zoo.extract_ilastik(full_zoo, out)
    assert out.read_text() == "my work"
    zoo.extract_ilastik(full_zoo, str(out), overwrite=True)
    with h5py.File(out) as project:
        assert "PixelClassification" in project


PLACE = "PixelClassification/LabelSets/x"


def claims_much(project):
    data = project.create_dataset("Input Data/x", data=np.ones(4000, np.uint8))
    for number in range(99):
        project[f"Input Data/{number}"] = data


LEAVING = {
    "external link": (link(PLACE, h5py.ExternalLink("secret.hdf5", "/x")), "x is a ExternalLink"),
    "external at the top": (link("x", h5py.ExternalLink("secret.hdf5", "/")), "ExternalLink"),
    "soft link out": (link(PLACE, h5py.SoftLink("/secret")), "x is a link out of /Ilastik"),
    "soft link to all": (link(PLACE, h5py.SoftLink("/")), "link out of"),
    "soft link to a like name": (link(PLACE, h5py.SoftLink("/Ilastik-FS/x")), "link out of"),
    "external storage": (elsewhere("x", (4,)), "x is a Dataset that needs another"),
    "virtual": (virtual("x", (3,)), "x is a Dataset that needs another file"),
    "datatype": (link(PLACE, np.dtype("f4")), "x is a Datatype"),
    "amplified": (claims_much, "claim more bytes"),
    "odd attribute": (lambda project: project.attrs.__setitem__("x", [b"a", b"b"]),
                      "attribute x holds neither"),
}  # fmt: skip


@pytest.mark.parametrize("case", LEAVING)
def test_what_leaves_the_group_is_refused(tmp_path, case):
    change, message = LEAVING[case]
    path = tmp_path / "zoo.hdf5"
    with h5py.File(tmp_path / "secret.hdf5", "w") as file:
        file["x"] = np.ones(3, np.float32)
    with h5py.File(path, "w") as file:
        file["secret"] = 1
        change(ilastik(file))
    with pytest.raises(ValueError, match=message) as caught:
        zoo.extract_ilastik(path, tmp_path / "project.ilp")
    assert re.fullmatch(r"Cannot load the Ilastik project from \S+: [^\n]+\.", str(caught.value))
    assert sorted(os.listdir(tmp_path)) == ["secret.hdf5", "zoo.hdf5"]


def test_sizes_that_nothing_backs_take_no_room(tmp_path):
    with h5py.File(tmp_path / "zoo.hdf5", "w") as file:
        ilastik(file).create_dataset("x", (10**6, 10**6), "f8", chunks=(100, 100))
        file["Ilastik"].create_dataset("y", (10**12,), "f8")
    zoo.extract_ilastik(tmp_path / "zoo.hdf5", tmp_path / "project.ilp")
    assert (tmp_path / "project.ilp").stat().st_size < 10**5
    with h5py.File(tmp_path / "project.ilp") as project:
        assert project["x"].shape == (10**6, 10**6) and project["y"][0] == 0
