"""The zoo format: round trips, a file in the published style, damaged and hostile files."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import every_pool, random_model
from damage import damaged, elsewhere, link, replace, virtual
from test_model import published_entries
from torch.nn import functional as F

from micranet_helpers import zoo
from micranet_helpers.networks.micranet import MICRANet
from micranet_helpers.networks.unet import UNet
from micranet_helpers.zoo.architectures import MOST, settings


def published_weights(rng, num_classes=1):
    """Make the 58 entries of a published P. vivax model (3 channels), with random numbers."""
    weights = {}
    for name, shape in published_entries(3, num_classes).items():
        if name.endswith("num_batches_tracked"):
            weights[name] = np.int64(700)
        elif name.endswith("running_var"):
            weights[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        else:
            centre = name.startswith("bnorm") and name.endswith("weight")
            spread = 1 / np.sqrt(9 * shape[1]) if len(shape) == 4 else 0.1
            weights[name] = rng.normal(centre, spread, shape).astype(np.float32)
    return weights


def published_forward(weights, x):
    """Compute the logits from the entries alone."""
    w = {key: torch.as_tensor(value) for key, value in weights.items()}
    for layer in ("1a", "1b", "2a", "2b", "3a", "3b", "4a", "4b"):
        if layer in ("2a", "3a", "4a"):
            x = F.max_pool2d(x, 2)
        x = F.conv2d(x, w[f"conv{layer}.weight"], w[f"conv{layer}.bias"], padding=1)
        norm = [w[f"bnorm{layer}.{e}"] for e in ("running_mean", "running_var", "weight", "bias")]
        x = F.batch_norm(x, *norm).relu()
    return F.linear(x.amax((-2, -1)), w["linear1.weight"], w["linear1.bias"])


def write(group, weights):
    for key, value in weights.items():
        group.create_dataset(key, data=value)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A zoo in the published style, written with h5py alone, and the weights of its folds."""
    path = tmp_path_factory.mktemp("published") / "PVivaxModelZoo.hdf5"
    rng = np.random.default_rng(0)
    folds = [published_weights(rng) for _ in range(3)]
    with h5py.File(path, "w") as file:
        naive = file.create_group("MICRANet-naive")
        flat = {"num_input_images": 3, "num_classes": 1, "size": 256}
        naive.attrs["trainer_params"] = json.dumps(flat)
        naive.attrs["class_thresholds"] = np.array([0.25])
        write(naive.create_group("20200101-000000_1"), folds[1])
        write(naive.create_group("20200706-101112_42"), folds[0])
        tuned = file.create_group("MICRANet-finetuned")
        nested = {"size": 512, "model_params": {"num_input_images": 3, "num_classes": 1}}
        tuned.attrs["trainer_params"] = json.dumps(nested)
        model = tuned.create_group("20200807-101112_42")
        for number, fold in enumerate(folds):
            write(model.create_group(f"fold-{number}"), fold)
        unet = file.create_group("UNet")
        unet.attrs["trainer_params"] = json.dumps({"num_input_images": 1, "num_classes": 2})
        unet.create_group("m").create_dataset("firstConvolution.conv.0.weight", data=np.ones(3))
    return path, folds


@pytest.fixture
def file(published, tmp_path):
    """A copy of the published zoo that a test may damage."""
    path = tmp_path / "zoo.hdf5"
    path.write_bytes(published[0].read_bytes())
    return path


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = MICRANet(1, 2)
    model(torch.rand(2, 1, 16, 16))  # moves the running statistics away from 0 and 1
    return model.eval()


IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


# Published files


@torch.no_grad()
@pytest.mark.parametrize(
    ("group", "name", "numbers", "size", "thresholds"),
    [
        ("MICRANet-naive", None, [0], 256, [0.25]),
        ("MICRANet-naive", "20200101-000000_1", [1], 256, [0.25]),
        ("MICRANet-finetuned", None, [0, 1, 2], 512, None),
    ],
)
def test_published_models(published, group, name, numbers, size, thresholds):
    path, folds = published
    entry = zoo.load(str(path), group, name)
    assert entry.params == {"num_input_images": 3, "num_classes": 1, "size": size}
    assert entry.class_thresholds is thresholds or entry.class_thresholds.tolist() == thresholds
    for model, number in zip(entry.models, numbers, strict=True):
        assert not model.training and model.bnorm3b.num_batches_tracked == 700
        torch.testing.assert_close(model(IMAGES), published_forward(folds[number], IMAGES))


@torch.no_grad()
def test_other_number_formats_and_compression(file, published):
    """Big-endian, double and half precision, integers and compressed data are still numbers."""
    changes = {"conv1a.weight": ">f4", "conv1a.bias": "f8", "bnorm1a.weight": "f2"}
    with h5py.File(file, "a") as f:
        group = f["MICRANet-naive/20200706-101112_42"]
        for key, dtype in changes.items():
            value = group[key][()].astype(dtype)
            del group[key]
            group.create_dataset(key, data=value, compression="gzip")
        f["MICRANet-naive"].attrs["trainer_params"] = np.bytes_(
            json.dumps({"num_input_images": 3, "num_classes": 1})
        )
    logits = zoo.load(file, "MICRANet-naive").models[0](IMAGES)
    expected = published_forward(published[1][0], IMAGES)
    torch.testing.assert_close(logits, expected, atol=1e-2, rtol=1e-2)


# Round trips


@torch.no_grad()
@every_pool
def test_round_trip(tmp_path, pool):
    model, path = random_model(1, 2, **pool), tmp_path / "zoo.hdf5"
    params = {"epochs": 3, "classes": ["ring", "fibre"]}
    zoo.save(path, "MICRANet-1:5", model, params, [0.5, 0.6])
    entry = zoo.load(path, "MICRANet-1:5")
    x = torch.rand(2, 1, 24, 24)
    assert torch.equal(entry.models[0](x), model(x))
    own = {**settings(model), "num_input_images": 1, "num_classes": 2}
    assert entry.params == {**params, **own}
    assert entry.class_thresholds.tolist() == [0.5, 0.6]
    assert params == {"epochs": 3, "classes": ["ring", "fibre"]}
    state = entry.models[0].state_dict()
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    if pool["pool"] != "channel":
        with pytest.raises(ValueError, match="contradict"):
            zoo.save(path, "MICRANet", model, {"pool": "channel"})


def test_layout_on_disk(tmp_path, model):
    path = tmp_path / "zoo.hdf5"
    zoo.save(path, "one", model, {"num_classes": 2})
    zoo.save(path, "folds", [model, model], {"model_params": {"num_input_images": 1}})
    with h5py.File(path) as f:
        assert set(f["one/model"]) == set(model.state_dict())
        assert f["one/model/bnorm1a.num_batches_tracked"].shape == ()
        assert f["one/model/conv1b.weight"].dtype == np.float32
        assert list(f["folds/model"]) == ["fold-0", "fold-1"]
        text = f["folds"].attrs["trainer_params"]
        assert isinstance(text, str) and json.loads(text)["num_classes"] == 2
        assert "class_thresholds" not in f["one"].attrs


def test_many_folds_keep_their_order(tmp_path):
    models = [UNet(1, 1, 1, 1) for _ in range(11)]
    for number, fold in enumerate(models):  # by name, fold-10 would come second
        fold.lastConv.bias.data.fill_(number)
    zoo.save(tmp_path / "zoo.hdf5", "UNet", models, {})
    loaded = zoo.load(tmp_path / "zoo.hdf5", "UNet").models
    assert [model.lastConv.bias.item() for model in loaded] == list(range(11))


@torch.no_grad()
def test_saving_replaces_one_group_and_keeps_the_others(file, published, model):
    with h5py.File(file, "a") as f:
        f.attrs["source"] = "here"
    for bias in (1.0, 2.0):
        model.linear1.bias.fill_(bias)
        zoo.save(file, "MICRANet-naive", model, {})
        size = file.stat().st_size
    zoo.save(file, "MICRANet-naive", model, {})
    assert file.stat().st_size == size  # replaced groups leave no gap behind
    assert zoo.load(file, "MICRANet-naive").models[0].linear1.bias.tolist() == [2, 2]
    kept = zoo.load(file, "MICRANet-finetuned")
    assert kept.params["size"] == 512
    expected = published_forward(published[1][2], IMAGES)
    torch.testing.assert_close(kept.models[2](IMAGES), expected)
    with h5py.File(file) as f:
        assert f.attrs["source"] == "here"
        assert f["UNet/m/firstConvolution.conv.0.weight"][()].tolist() == [1, 1, 1]
    assert os.listdir(file.parent) == [file.name]


def test_save_follows_a_link_to_the_file(file, tmp_path, model):
    link = tmp_path / "link.hdf5"
    link.symlink_to(file)
    zoo.save(link, "new", model, {})
    assert link.is_symlink()
    assert zoo.load(file, "new").params["num_classes"] == 2


# What save refuses


def test_save_refuses(tmp_path, model):
    diverged = MICRANet(1, 2)
    diverged.conv1a.bias.data[0] = torch.nan
    for group, models, params, thresholds, error, message in [
        ("a/b", model, {}, None, ValueError, "without slashes"),
        ("a\0b", model, {}, None, ValueError, "without slashes"),
        ("g", model, {"num_classes": 3}, None, ValueError, "contradict"),
        ("g", model, {"a": float("nan")}, None, ValueError, "plain"),
        ("g", model, {}, [0.5, np.nan], ValueError, "threshold"),
        ("g", torch.nn.Linear(1, 1), {}, None, TypeError, "MICRANet"),
        ("g", [], {}, None, ValueError, "same numbers"),
        ("g", [model, MICRANet(1, 3)], {}, None, ValueError, "same numbers"),
        ("g", diverged, {}, None, ValueError, "conv1a.bias.*diverged"),
    ]:
        with pytest.raises(error, match=message):
            zoo.save(tmp_path / "zoo.hdf5", group, models, params, thresholds)
    assert os.listdir(tmp_path) == []


# A disk that is full


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.skipif(sys.platform != "linux", reason="file size limits are set as on Linux")
def test_writes_that_truly_fail(tmp_path, model):
    """HDF5 writing to the disk itself would crash here when the program ends."""
    path = tmp_path / "zoo.hdf5"
    zoo.save(path, "old", model, {})
    before = path.read_bytes()
    script = f"""
        import resource
        from micranet_helpers import zoo
        model = zoo.load({str(path)!r}, "old").models[0]
        for limit in (100, 100_000, 9_000_000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            try:
                zoo.save({str(path)!r}, "new", model, {{}})
            except OSError as error:
                print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("as before") == result.stdout.count("File too large") == 3
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["zoo.hdf5"]


def test_save_beside_a_damaged_file(tmp_path, model):
    path = tmp_path / "zoo.hdf5"
    path.write_text("my notes")
    with pytest.raises(OSError, match="old file is sound"):
        zoo.save(path, "MICRANet", model, {})
    assert path.read_text() == "my notes"
    assert os.listdir(tmp_path) == ["zoo.hdf5"]


# Damaged and hostile files

GROUP = "MICRANet-naive"
MODEL = f"{GROUP}/20200706-101112_42"
BIAS = f"{MODEL}/conv1a.bias"


def attribute(key, value):
    return lambda f: f[GROUP].attrs.__setitem__(key, value)


def many_links(f):
    for number in range(MOST + 1):
        f[f"{GROUP}/z/{number}"] = f[MODEL]


NAN = np.full(32, np.nan)
SIZES = {"num_input_images": 3, "num_classes": 1}
BAD = {
    "extra weight": (lambda f: write(f[MODEL], {"extra": np.ones(1)}), "unexpected.*extra"),
    "misshapen": (replace(BIAS, data=np.ones(31, "f4")), r"\(31,\), expected is \(32,\)"),
    "no shape": (replace(BIAS, data=h5py.Empty("f4")), "shape None"),
    "huge": (replace(BIAS, shape=(10**13,), dtype="f4"), "more than the file can hold"),
    "huge chunk": (replace(BIAS, shape=(32,), maxshape=(None,), chunks=(10**8,), dtype="f4"),
                   r"chunks of \(100000000,\)"),
    "text": (replace(BIAS, data=["a"] * 32), "conv1a.bias.*instead of numbers"),
    "NaN": (replace(BIAS, data=NAN), "conv1a.bias.*NaN"),
    "weight for model": (link(MODEL, np.ones(3)), "is a Dataset"),
    "empty group": (lambda f: f[GROUP].clear(), "holds no model"),
    "missing group": (lambda f: f.__delitem__(GROUP), "only: MICRANet-finetuned, UNet"),
    "no params": (lambda f: f[GROUP].attrs.clear(), "trainer_params"),
    "deep JSON": (attribute("trainer_params", np.bytes_("[" * 60000)), "trainer_params|recursion"),
    "JSON list": (attribute("trainer_params", "[1]"), "no JSON object"),
    "params object": (attribute("trainer_params", h5py.Empty("f4")), "trainer_params"),
    **{
        f"num_classes {n}": (attribute("trainer_params", json.dumps({**SIZES, "num_classes": n})),
                             f"say .*'num_classes': {n!r}. and contradict.*'num_classes': 1")
        for n in (2, True, 10**12)
    },
    "unknown pool": (attribute("trainer_params", json.dumps({**SIZES, "pool": ["lse"]})),
                     "The pool is"),
    "NaN thresholds": (attribute("class_thresholds", [np.nan]), "class_thresholds"),
    "external group": (link(GROUP, h5py.ExternalLink("secret.hdf5", "/")), "refused"),
    "external model": (link(MODEL, h5py.ExternalLink("secret.hdf5", "/")), "refused"),
    "external weight": (link(BIAS, h5py.ExternalLink("secret.hdf5", "/x")), "refused"),
    "soft link": (link(MODEL, h5py.SoftLink("/MICRANet-finetuned")), "refused"),
    "external storage": (elsewhere(BIAS, (32,)), "another file"),
    "virtual dataset": (virtual(BIAS, (32,)), "another file"),
    "many links": (many_links, f"at most {MOST}"),
    "folds in folds": (
        lambda f: (f[MODEL].clear(), f.__setitem__(f"{MODEL}/fold-0/fold-0/a", 1)),
        "fold-0/fold-0 is a Group where none is expected",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_in_one_sentence(file, case):
    change, message = BAD[case]
    with h5py.File(file, "a") as f:
        change(f)
    with h5py.File(file.with_name("secret.hdf5"), "w") as f:
        write(f, {"x": np.ones(32)})
    with pytest.raises(ValueError, match=message) as caught:
        zoo.load(file, GROUP)
    text = str(caught.value)
    assert str(file) in text and GROUP in text and "\n" not in text


def test_wrong_names(published):
    path, _ = published
    with pytest.raises(FileNotFoundError, match="There is no file"):
        zoo.load(path.parent, GROUP)
    with pytest.raises(ValueError, match="20200101-000000_1, 20200706-101112_42"):
        zoo.load(path, GROUP, "latest")
    with pytest.raises(ValueError, match="UNet/m is no U-Net: miss.*firstConvolution"):
        zoo.load(path, "UNet")
    for group in ("", ".", "..", "/", MODEL, f"/{GROUP}", "MICRANet"):
        with pytest.raises(ValueError, match="Cannot load"):
            zoo.load(path, group)


READERS = {
    "load": lambda path: zoo.load(path, GROUP),
    "contents": zoo.contents,
    "extract": lambda path: zoo.extract_ilastik(path, path.with_suffix(".ilp")),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "content", [b"", b"my notes", b"PK\x03\x04" + bytes(5000), b"\x89HDF\r\n\x1a\n" + bytes(5000)]
)
def test_other_files_are_refused(tmp_path, content, reader):
    path = tmp_path / "zoo.hdf5"
    with pytest.raises(FileNotFoundError, match="There is no file .*zoo.hdf5"):
        READERS[reader](path)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is no HDF5 file or is damaged, download"):
        READERS[reader](path)
    assert os.listdir(tmp_path) == ["zoo.hdf5"]


def test_link_to_another_file_is_not_copied(file, model):
    """Saving into a hostile zoo must not pull other files into it either."""
    with h5py.File(file, "a") as f:
        f["a"] = h5py.ExternalLink("secret.hdf5", "/")
    before = file.read_bytes()
    with pytest.raises(ValueError, match="refused"):
        zoo.save(file, "MICRANet", model, {})
    assert file.read_bytes() == before
    assert os.listdir(file.parent) == [file.name]


@pytest.mark.faults
@pytest.mark.slow
def test_random_damage(tmp_path, model):
    """Flip bits, mostly outside the weights, and cut the file: refused, or sound weights."""
    path = tmp_path / "zoo.hdf5"
    zoo.save(path, "MICRANet", model, {}, [0.5, 0.5])
    sound = path.read_bytes()
    structure = np.ones(len(sound), bool)
    with h5py.File(path) as f:
        for data in f["MICRANet/model"].values():
            start = data.id.get_offset()
            structure[start : start + data.id.get_storage_size()] = False
    structure = np.flatnonzero(structure)
    assert 1000 < structure.size < 100_000
    refused = 0
    for places in (structure, structure[:2000]):
        for spoilt in damaged(sound, 35, places):
            path.write_bytes(spoilt)
            try:
                loaded = zoo.load(path, "MICRANet").models[0].state_dict()
            except ValueError as error:
                assert str(path) in str(error)
                refused += 1
                continue
            for key, value in model.state_dict().items():
                assert loaded[key].shape == value.shape and torch.isfinite(loaded[key]).all()
    assert 15 < refused < 70  # the damage matters, and not every bit does


def test_half_written_files_of_the_zoo_go_and_those_of_others_stay(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    own, part = "zoo[1].hdf5", ".12-0123abcd.part"
    others = [f"zoo1.hdf5{part}", f"{own}.old{part}", f"below/{own}{part}", f"{own}.12.part"]
    for name in (own + part, *others):
        (tmp_path / name).touch()
    zoo.save(tmp_path / own, "MICRANet", random_model(), {})
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.part")}
    assert left == {*others}
