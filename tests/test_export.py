"""Exports: the same numbers in other programs' formats, and their validators."""

import io
import json
import socket
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from bioimageio import spec
from conftest import random_images, random_model
from PIL import Image
from test_export_maps import run
from torch import nn

from micranet_helpers.maps.cam import grad_cam
from micranet_helpers.networks import mask_rcnn
from micranet_helpers.networks.unet import FalkUNet, UNet
from micranet_helpers.zoo.architectures import settings
from micranet_helpers.zoo.export import bioimageio as packages
from micranet_helpers.zoo.export import to_bioimageio, to_onnx, to_safetensors
from micranet_helpers.zoo.export.onnx import check_graph
from micranet_helpers.zoo.usage import Usage

pytestmark = pytest.mark.slow  # writing a graph takes many seconds
CLASSES = ["a", "b", "c"]
ABOUT = {
    "name": "Three shapes",
    "description": "Tells three shapes.",
    "authors": ["Ada Example"],
    "license": "MIT",
    "card": "# Three shapes\n\n## Validation\n\nNone.\n",
}


def random_unet(kind: type[nn.Module] = UNet, **sizes: int) -> nn.Module:
    torch.manual_seed(0)
    return kind(1, 3, filters=2, **sizes).eval()


NETWORKS = {
    "MICRANet": random_model,
    "UNet": lambda: random_unet(depth=3),
    "FalkUNet": lambda: random_unet(FalkUNet),
}
GRAPHS = NETWORKS | {
    "top": lambda: random_model(pool="top", share=0.3),
    "lse": lambda: random_model(pool="lse", sharpness=2),
}
every_network = pytest.mark.parametrize("name", NETWORKS)


# --- safetensors -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*NETWORKS, "bfloat16"])
def test_other_readers_find_names_numbers_and_settings(name: str, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    model = NETWORKS["UNet"]().bfloat16() if name == "bfloat16" else NETWORKS[name]().train()
    to_safetensors(path, model, {"epochs": 3})
    state = safetensors.torch.load_file(path)
    assert state.keys() == model.state_dict().keys() and model.training == (name in NETWORKS)
    for key, value in model.state_dict().items():
        assert state[key].dtype in (torch.float32, torch.int64)
        assert torch.equal(state[key], value.to(state[key].dtype))
    with safetensors.safe_open(path, framework="np") as file:
        found = file.metadata()
    assert json.loads(found["settings"]) == {"epochs": 3, **settings(model)}
    assert found["format"] == "pt" and found["micranet_helpers"]


# --- what all refuse ---------------------------------------------------------------------------


IMAGE = 255 * random_images(1, 32, 48).numpy()


@pytest.mark.parametrize(
    "export",
    [
        lambda folder, model: to_safetensors(folder / "net.safetensors", model, {}),
        lambda folder, model: to_onnx(folder / "net.onnx", model),
        lambda folder, model: to_bioimageio(folder / "net.zip", model, IMAGE, CLASSES, **ABOUT),
    ],
    ids=["safetensors", "onnx", "bioimageio"],
)
def test_other_networks_and_diverged_ones_are_refused_and_nothing_is_written(export, tmp_path):
    diverged = random_model()
    with torch.no_grad():
        diverged.linear1.bias[0] = torch.nan
    with pytest.raises(TypeError, match="Only MICRANet, UNet.* FalkUNet.* not Linear"):
        export(tmp_path, nn.Linear(1, 1))
    with pytest.raises(ValueError, match="linear1.bias holds NaN"):
        export(tmp_path, diverged)
    assert not list(tmp_path.iterdir())


def test_weights_of_a_mask_rcnn_can_be_written_and_its_graph_cannot(tmp_path: Path) -> None:
    with torch.device("meta"):
        empty = mask_rcnn.build(1, 2, 64)
    model = empty.to_empty(device="cpu").eval()
    with torch.no_grad():
        for value in model.state_dict().values():
            value.fill_(1)
    to_safetensors(tmp_path / "objects.safetensors", model, {"epochs": 3})
    with safetensors.safe_open(tmp_path / "objects.safetensors", framework="pt") as file:
        assert set(file.keys()) == set(model.state_dict())
        assert json.loads(file.metadata()["settings"])["max_size"] == 64
    with pytest.raises(TypeError, match="UNet and FalkUNet .* not MaskRCNN"):
        to_onnx(tmp_path / "objects.onnx", model)


# --- ONNX --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The graph of each network, written once: the exporter takes seconds."""
    folder = tmp_path_factory.mktemp("graphs")
    for name, make in GRAPHS.items():
        to_onnx(folder / f"{name}.onnx", make().train(), CLASSES)
    return {name: folder / f"{name}.onnx" for name in GRAPHS}


@pytest.mark.parametrize("shape", [(1, 1, 16, 16), (2, 1, 16, 48), (5, 1, 80, 32)], ids=str)
@pytest.mark.parametrize("name", GRAPHS)
@torch.no_grad()
def test_onnx_gives_the_logits_for_any_number_and_size(name: str, shape, graphs) -> None:
    images = random_images(*shape)
    logits = run(graphs[name], images)["logits"]
    torch.testing.assert_close(logits, GRAPHS[name]()(images), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (3, 1, 40, 24), (2, 1, 8, 104)], ids=str)
def test_onnx_gives_the_map_of_the_last_layer(shape: tuple, model, graphs) -> None:
    images = random_images(*shape)
    logits, maps = run(graphs["MICRANet"], images).values()
    expected = grad_cam(model, images, normalize=False, layers=("4b",))
    assert (maps > 0).any() and (maps >= 0).all()
    torch.testing.assert_close(logits, expected.logits, atol=1e-5, rtol=0)
    small = expected.maps[:, :, 0, ::8, ::8]
    torch.testing.assert_close(maps, small, atol=1e-6 * float(small.max()), rtol=1e-4)


def test_the_graph_says_what_it_is_and_nothing_of_this_machine(graphs) -> None:
    proto = onnx.load(graphs["MICRANet"])
    onnx.checker.check_model(proto, full_check=True)
    notes = {entry.key: entry.value for entry in proto.metadata_props}
    assert json.loads(notes["settings"]) == {"num_input_images": 1, "num_classes": 3}
    assert json.loads(notes["classes"]) == CLASSES and notes["micranet_helpers"]
    assert [each.name for each in proto.graph.input] == ["image"]
    assert [each.name for each in proto.graph.output] == ["logits", "map_4b"]
    text = str(proto.graph.node)
    assert "Conv" in text and "File" not in text and str(Path(__file__).parents[1]) not in text


def test_export_leaves_the_network_as_it_was_and_says_nothing(tmp_path: Path, capfd) -> None:
    model = random_unet(depth=1).double().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    draws = torch.get_rng_state()
    to_onnx(tmp_path / "a.onnx", model)
    assert model.training and torch.equal(torch.get_rng_state(), draws)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert capfd.readouterr() == ("", "")
    images = random_images(2, 1, 5, 7)  # one level: any side
    model.eval().float()
    torch.testing.assert_close(run(tmp_path / "a.onnx", images)["logits"], model(images).detach())


def test_a_graph_of_another_network_is_noticed(graphs) -> None:
    with pytest.raises(RuntimeError, match="differs from the network by .*not written"):
        check_graph(graphs["MICRANet"].read_bytes(), random_model(seed=1))


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "b"], ["a", "b", ""], "abc"])
def test_names_that_do_not_fit_the_classes_are_refused(names, model, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Give 3 different names"):
        to_onnx(tmp_path / "a.onnx", model, names)


# --- bioimage.io -------------------------------------------------------------------------------


@pytest.fixture
def known_graphs(graphs, monkeypatch) -> None:
    """The graphs that are there already, in place of further seconds of the exporter."""
    found = {name: file.read_bytes() for name, file in graphs.items()}
    real = packages.graph

    def known(model: nn.Module, *args, maps: bool, usage=None) -> bytes:
        return real(model, *args, maps=maps) if maps else found[type(model).__name__]

    monkeypatch.setattr(packages, "graph", known)


@pytest.fixture
def offline(monkeypatch) -> None:
    def refuse(*_, **__):
        raise AssertionError("something is looked up on the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def package(folder: Path, network: str, **changes) -> Path:
    image = changes.pop("image", IMAGE)
    usage = Usage(CLASSES, "range", offset=[3], factor=[1 / 255])
    about = {**ABOUT, "tags": ["shapes"], "usage": usage, **changes}
    to_bioimageio(folder / "net.zip", NETWORKS[network](), image, CLASSES, **about)
    return folder / "net.zip"


def problems(path: Path) -> list[str]:
    """What the official validator says."""
    found = spec.load_description(path, perform_io_checks=True)
    return [error.msg for error in found.validation_summary.errors]


@every_network
def test_the_package_is_valid_and_its_test_passes(name, known_graphs, offline, tmp_path) -> None:
    """As a reader would: preprocess as the description says, run, compare."""
    path = package(tmp_path, name)
    assert problems(path) == []
    found = spec.load_model_description(path)
    [image] = found.get_input_test_arrays()
    np.testing.assert_array_equal(image[0], IMAGE.astype(np.float32))
    [scale] = [step.kwargs for step in found.inputs[0].preprocessing if step.id == "scale_linear"]
    pixels = image * np.float32(scale.gain[0]) + np.float32(scale.offset[0])
    with zipfile.ZipFile(path) as archive:
        archive.extract("model.onnx", tmp_path)
    outputs = run(tmp_path / "model.onnx", torch.from_numpy(pixels))
    tolerances = found.config.bioimageio.reproducibility_tolerance
    arrays = zip(outputs.values(), found.get_output_test_arrays(), tolerances, strict=True)
    for ours, theirs, tolerance in arrays:
        share = tolerance.relative_tolerance
        np.testing.assert_allclose(ours, theirs, share, tolerance.absolute_tolerance)


def test_the_package_tells_what_it_must(known_graphs, tmp_path: Path) -> None:
    path = package(tmp_path, "MICRANet")
    found = spec.load_model_description(path)
    assert (found.name, found.license, found.tags) == ("Three shapes", "MIT", ["shapes"])
    assert [author.name for author in found.authors] == ["Ada Example"]
    assert str(found.cite[0].doi) == "10.1038/s42256-022-00472-w"
    assert found.format_version.startswith("0.5.")
    assert [output.id for output in found.outputs] == ["logits", "maps", "evidence"]
    for output in found.outputs:
        assert output.axes[1].channel_names == CLASSES
    assert [axis.id for axis in found.outputs[1].axes] == ["batch", "channel", "z", "y", "x"]
    with zipfile.ZipFile(path) as archive:
        assert archive.read("README.md").decode() == ABOUT["card"]
        opsets = onnx.load_from_string(archive.read("model.onnx")).opset_import
        cover = Image.open(io.BytesIO(archive.read("cover.png")))
    assert [each.version for each in opsets] == [found.weights.onnx.opset_version]
    assert cover.size == (512, 256) and len(cover.getcolors(10**6)) > 10


@pytest.mark.parametrize(
    ("usage", "step"), [(None, "ensure_dtype"), (Usage(CLASSES, "minmax"), "scale_range")]
)
def test_the_package_says_how_an_image_is_scaled(usage, step, known_graphs, tmp_path) -> None:
    """Without a usage, the image is as the network sees it."""
    found = spec.load_model_description(package(tmp_path, "UNet", image=IMAGE / 255, usage=usage))
    steps = [each.id for each in found.inputs[0].preprocessing]
    assert step in steps and (usage or steps == [step])
    stored = found.config.micranet_helpers.get("usage")
    assert stored == (usage and json.loads(usage.text))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"license": "my own"}, r"bioimage.io refuses the package: license: .{1,220}$"),
        ({"authors": "Ada"}, "one author or more"),
        ({"image": IMAGE[:, :7]}, "multiples of 8"),
        ({"image": IMAGE * np.nan}, "NaN"),
    ],
    ids=["licence", "author", "side", "NaN"],
)
def test_a_package_that_cannot_be_is_refused(changes, message, known_graphs, tmp_path) -> None:
    with pytest.raises(ValueError, match=message):
        package(tmp_path, "MICRANet", **changes)
    assert not list(tmp_path.iterdir())


@torch.no_grad()
def test_an_image_on_which_nothing_is_predicted_is_a_test_too(known_graphs, tmp_path, monkeypatch):
    """The validator takes no tolerance for such an output."""
    never = random_model()
    monkeypatch.setitem(NETWORKS, "MICRANet", lambda: never)
    never.linear1.bias.fill_(-1000)
    assert problems(package(tmp_path, "MICRANet")) == []
