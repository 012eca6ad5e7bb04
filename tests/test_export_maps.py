"""The maps as an ONNX graph: onnxruntime computes what ``grad_cam`` and ``evidence`` do."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import random_images, random_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from micranet_helpers.maps.cam import evidence, grad_cam
from micranet_helpers.networks.micranet import LAYERS, MICRANet
from micranet_helpers.networks.unet import UNet
from micranet_helpers.zoo.export import to_onnx
from micranet_helpers.zoo.export.maps import maps_graph
from micranet_helpers.zoo.usage import Usage

pytestmark = pytest.mark.slow
USAGE = Usage("ab", "range", offset=[3, 3], factor=[0.5, 0.25])


def run(graph: bytes | Path, images: Tensor, least: Tensor | None = None) -> dict[str, Tensor]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    data = graph.read_bytes() if isinstance(graph, Path) else graph
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    feeds = {"image": images.numpy()}
    if least is not None:
        feeds["least"] = np.full(session.get_outputs()[0].shape[1], least, np.float32)
    found = session.run(names, feeds)
    return {name: torch.from_numpy(values) for name, values in zip(names, found, strict=True)}


def assert_as_ours(
    found: dict[str, Tensor], model: MICRANet, images: Tensor, tolerance: float
) -> None:
    cams, shown = grad_cam(model, images), evidence(model, images)
    assert list(found) == ["logits", "maps", "evidence"]
    assert all(values.dtype == torch.float32 for values in found.values())
    torch.testing.assert_close(found["logits"], cams.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found["evidence"], shown, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found["maps"], cams.maps, atol=tolerance, rtol=0)


@torch.no_grad()
def model_of_integers(channels: int, classes: int, seed: int, pool: dict[str, Any]) -> MICRANet:
    """Make a network of small integers, so that float32 is exact and ties are ties everywhere."""
    draw = torch.Generator().manual_seed(seed)
    model = MICRANet(channels, classes, **pool).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            signs = torch.randint(-1, 2, module.weight.shape, generator=draw)
            kept = torch.rand(signs.shape, generator=draw) < 6 / signs[0].numel()
            module.weight.copy_(signs * kept)
            module.bias.copy_(torch.randint(0, 2, module.bias.shape, generator=draw))
        elif isinstance(module, nn.BatchNorm2d):
            module.running_var.fill_(1 - module.eps)
    nn.init.normal_(model.linear1.weight, 0, 0.01, generator=draw)
    return model


POOLS = (
    {},
    {"pool": "top", "share": 0.05},
    {"pool": "top", "share": 0.4},
    {"pool": "lse", "sharpness": 1.0},
)


@settings(max_examples=20)
@given(
    st.integers(0, 99), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3),
    st.integers(2, 6), st.sampled_from([2, 3, 5, 20]), st.integers(1, 3), st.sampled_from(POOLS),
)  # fmt: skip
def test_outputs_are_those_of_torch_also_with_ties(
    seed: int, channels: int, classes: int, number: int, rows: int, columns: int, levels: int,
    pool: dict[str, Any],
) -> None:  # fmt: skip
    model = model_of_integers(channels, classes, seed, pool)
    images = random_images(number, channels, 8 * rows, 8 * columns, seed=seed)
    images = (levels * images).floor()  # one level: all pixels are alike
    found = run(maps_graph(model).SerializeToString(), images)
    assert_as_ours(found, model, images, tolerance=1e-4)
    image = images[:1]  # for browsers, only predicted classes of one image are explained
    expected = grad_cam(model, image)
    least = expected.logits[0].median()  # at least one class is not above it
    found = run(maps_graph(model, predicted=True).SerializeToString(), image, least=least)
    torch.testing.assert_close(found["logits"], expected.logits, atol=1e-4, rtol=1e-4)
    shown = (found["logits"][0] > least).nonzero().flatten()
    torch.testing.assert_close(found["shown"], shown)
    torch.testing.assert_close(found["maps"], expected.maps[:, shown], atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_class_without_a_gradient_has_maps_of_zeros() -> None:
    model, images = random_model(), random_images(2, 1, 24, 24)
    model.linear1.weight[1] = 0
    found = run(maps_graph(model).SerializeToString(), images)
    assert (found["maps"][:, 1] == 0).all() and (found["maps"][:, 0] > 0).any()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("maps") / "net.onnx"
    to_onnx(path, random_model(2, 2).train().double(), ["a", "b"], maps=True, usage=USAGE)
    return path


def test_the_file_holds_the_network_in_evaluation_mode(written: Path) -> None:
    images = random_images(2, 2, 16, 24)
    # Rounding may tip over a max pool; a wrong graph differs by 0.3.
    assert_as_ours(run(written, images), random_model(2, 2), images, tolerance=0.1)


def test_the_file_says_what_it_is(written: Path) -> None:
    proto = onnx.load(written)
    notes = {entry.key: entry.value for entry in proto.metadata_props}
    assert notes.pop("micranet_helpers") and Usage.of_text(notes.pop("usage")) == USAGE
    assert {key: json.loads(note) for key, note in notes.items()} == {
        "settings": {"num_input_images": 2, "num_classes": 2}, "classes": ["a", "b"],
        "offset": [3, 3], "factor": [0.5, 0.25],
    }  # fmt: skip
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*proto.graph.input, *proto.graph.output)
    }
    sides = ["height", "width"]
    assert shapes == {
        "image": ["batch", 2, *sides], "logits": ["batch", 2],
        "maps": ["batch", 2, len(LAYERS), *sides], "evidence": ["batch", 2, *sides],
    }  # fmt: skip


def test_older_programs_can_read_the_file(written: Path) -> None:
    """What onnxruntime 1.13 reads, the newest of deepImageJ: no newer operator, none of others'."""
    proto = onnx.load(written)
    assert proto.ir_version <= 8
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 17)]
    assert {node.domain for node in proto.graph.node} == {""}


def test_what_has_no_maps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="Only a MICRANet has maps, not a UNet"):
        to_onnx(tmp_path / "net.onnx", UNet(1, 2, filters=2, depth=1), maps=True)
    assert not list(tmp_path.iterdir())
