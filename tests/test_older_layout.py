"""The older layout, a folder with pickled weights: round trips, damage, hostile files."""

import io
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import damaged
from test_unet import expected_shapes
from test_zoo import published_weights
from test_zoo_layouts import MNIST, assert_holds, unet_weights

from micranet_helpers.networks.unet import UNet
from micranet_helpers.zoo import older_layout


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def tensors(weights):
    return {key: torch.as_tensor(value) for key, value in weights.items()}


def write_pair(folder, state, params=MNIST, **options):
    folder.mkdir(exist_ok=True)
    torch.save(state, folder / "params.net", **options)
    (folder / "trainer_params.json").write_text(json.dumps(params))
    return folder


@pytest.mark.parametrize("new", [True, False], ids=["zip", "before torch 1.6"])
def test_the_published_pairs_for_mnist(tmp_path, rng, new):
    micranet, unet = published_weights(rng, 10), unet_weights(rng, 1, 11, 4, 16)
    micranet["conv1a.weight"] = micranet["conv1a.weight"][:, :1]
    for name, weights in {"micranet": micranet, "unet": unet}.items():
        write_pair(tmp_path / name, tensors(weights), _use_new_zipfile_serialization=new)
    size = (tmp_path / "micranet" / "params.net").stat().st_size
    assert 0.99 < size / 4_721_582 < 1.01  # that of the published file
    entry = older_layout.load(tmp_path / "micranet")
    assert_holds(entry.models[0], micranet)
    assert entry.params == {**MNIST, "num_input_images": 1} and entry.class_thresholds is None
    entry = older_layout.load(str(tmp_path / "unet"))
    assert_holds(entry.models[0], unet)
    assert entry.params == {**MNIST, "num_classes": 11, "number_filter": 4, "depth": 4}


def test_parameters_that_share_numbers_in_the_file_are_apart_in_the_network(tmp_path, rng):
    state = tensors(unet_weights(rng, 1, 3, 2, 4))
    state["lastConv.bias"] = state["lastConv.weight"][:, 0, 0, 0].double()
    state["firstConvolution.conv.3.bias"] = state["firstConvolution.conv.0.bias"]
    state["firstConvolution.conv.0.weight"] = torch.tensor(0.25).expand(4, 1, 3, 3)
    [model] = older_layout.load(write_pair(tmp_path / "mnist", state)).models
    with torch.no_grad():
        model.firstConvolution.conv[0].bias.fill_(7)
        model.firstConvolution.conv[0].weight[0, 0, 0, 0] = 7
    changed = model.state_dict()
    assert (changed["firstConvolution.conv.3.bias"] < 1).all()
    assert (changed["firstConvolution.conv.0.weight"] == 7).sum() == 1
    assert changed["lastConv.bias"].dtype == torch.float32


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def bomb_for(save):
    def change(folder):
        state = {"conv1a.weight": Bomb(folder.parent / "harm")}
        (folder / "params.net").write_bytes(save(state))

    return change


def saved(**options):
    def save(state):
        torch.save(state, buffer := io.BytesIO(), **options)
        return buffer.getvalue()

    return save


def state_with(**changes):
    """Save other weights: by key, with dots as in the file; None takes one out."""

    def change(folder):
        state = torch.load(folder / "params.net", weights_only=True)
        for key, value in changes.items():
            key = key.replace("__", ".")
            state = {k: v for k, v in state.items() if k != key}
            if value is not None:
                state[key] = value
        torch.save(state, folder / "params.net")

    return change


def pickled(value):
    return lambda folder: torch.save(value, folder / "params.net")


def content(name, change):
    def apply(folder):
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return apply


def tensor_of(*shape):
    return torch.tensor(0.5).expand(shape)  # tiny in the file, whatever its shape


NET, TEXT = "params.net", "trainer_params.json"
DAMAGED = "params.net: it is damaged, or holds more than the weights.*nothing in it was run"
BAD_PAIRS = {
    "bomb, zip": (bomb_for(saved()), DAMAGED),
    "bomb, legacy": (bomb_for(saved(_use_new_zipfile_serialization=False)), DAMAGED),
    "bomb, plain pickle": (bomb_for(pickle.dumps), DAMAGED),
    "whole network": (pickled(UNet(1, 1, 1, 1)), DAMAGED),
    "text": (content(NET, lambda data: b"my notes"), DAMAGED),
    "half": (content(NET, lambda data: data[: len(data) // 2]), DAMAGED),
    "damaged zip": (content(NET, lambda data: data.replace(b"PK\1\2", b"PK\1\1")), DAMAGED),
    "sparse": (state_with(lastConv__bias=torch.ones(3).to_sparse()), "no state_dict"),
    "without numbers": (state_with(lastConv__bias=torch.ones(3, device="meta")), "no state_dict"),
    "nested": (pickled({"model": {"conv1a.weight": torch.ones(1)}}), "no state_dict"),
    "misshapen": (state_with(lastConv__bias=torch.ones(4)), r"lastConv.bias.*\(4,\).*\(3,\)"),
    "text for numbers": (state_with(lastConv__bias=torch.ones(3, dtype=bool)), "torch.bool values"),
    "NaN": (state_with(lastConv__bias=torch.full((3,), torch.nan)), "lastConv.bias holds NaN"),
    "huge": (pickled({k: tensor_of(*s) for k, s in expected_shapes(1, 1, 5, 900).items()}),
             "numbers, at most"),
    "JSON cut": (content(TEXT, lambda data: data[:-1]), "no JSON text"),
    "JSON deep": (content(TEXT, lambda data: b"[" * 10**5), "no JSON text"),
    "JSON NaN": (content(TEXT, lambda data: b'{"size": NaN}'), "NaN or infinite"),
    "JSON huge": (content(TEXT, lambda data: b" " * 10**6 + data), "more than 1000000 bytes"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")  # torch's, of hostile files
@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
@pytest.mark.parametrize("case", BAD_PAIRS)
def test_bad_pairs_are_refused_in_one_sentence_and_run_nothing(tmp_path, rng, case):
    change, message = BAD_PAIRS[case]
    folder = write_pair(tmp_path / "mnist", tensors(unet_weights(rng, 1, 3, 2, 4)))
    older_layout.load(folder)
    change(folder)
    with pytest.raises(ValueError, match=message) as caught:
        older_layout.load(folder)
    text = str(caught.value)
    assert str(folder) in text and "\n" not in text and "weights_only" not in text
    assert os.listdir(tmp_path) == ["mnist"]


def test_the_bomb_would_go_off(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "harm")))
    assert os.listdir(tmp_path) == ["harm"]


def test_damage_of_a_pair_is_refused_or_harmless(tmp_path, rng):
    weights = unet_weights(rng, 1, 1, 1, 2)
    folder = write_pair(tmp_path / "mnist", tensors(weights))
    refused = 0
    for spoilt in damaged((folder / "params.net").read_bytes(), 60):
        (folder / "params.net").write_bytes(spoilt)
        try:
            state = older_layout.load(folder).models[0].state_dict()
        except ValueError as error:
            assert str(folder) in str(error)
            refused += 1
            continue
        assert all(value.isfinite().all() for value in state.values())
    assert 10 < refused < 60
