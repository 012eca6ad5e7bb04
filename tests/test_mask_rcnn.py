"""Mask R-CNN: targets by hand, training of a tiny one, stitching with networks that are perfect."""

import contextlib
import copy
import io
import itertools
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import random_images
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import label as components
from test_train import PowerCut, weights
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign

from micranet_helpers import train as tr
from micranet_helpers.lessons.baselines import mask_rcnn
from micranet_helpers.lessons.baselines.mask_rcnn import ObjectCrops, fit, load, predict, targets
from micranet_helpers.networks.mask_rcnn import build

SIDE = 32


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """The real one. Only to be read."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(3, 2, 64)


# --- the network -------------------------------------------------------------------------------


def test_first_layer_and_sizes_are_those_of_the_images(network: nn.Module) -> None:
    assert network.backbone.body.conv1.weight.shape == (64, 3, 7, 7)
    assert network.backbone.body.conv1.bias is None
    assert network.roi_heads.box_predictor.cls_score.out_features == 3, "with the background"
    assert len(network.state_dict()) == 360
    images = list(random_images(2, 3, 64, 64))
    seen, _ = network.transform(images)
    assert torch.equal(seen.tensors, torch.stack(images)), "neither rescaled nor normalised"


@pytest.mark.slow
def test_real_network_trains_a_step_and_predicts(network: nn.Module) -> None:
    label = np.zeros((2, 64, 64), np.uint8)
    label[0, 5:30, 8:40], label[1, 40:60, 30:60] = 1, 1
    model = build(3, 2, 64)
    loss = sum(model([random_images(3, 64, 64)], [targets(label)]).values())
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    nn.init.constant_(model.roi_heads.box_predictor.cls_score.bias, 0)
    nn.init.constant_(model.roi_heads.box_predictor.cls_score.bias[1], 50)
    found = predict(model, np.random.default_rng(0).random((3, 60, 50), np.float32))
    assert found.labels.shape == (60, 50) and found.labels.dtype == np.int32
    assert len(found.classes) == len(found.scores) == found.labels.max()
    assert len(found.classes) > 0 and {*found.classes} == {0}


@pytest.mark.slow
def test_boxes_stay_exact_in_half_precision() -> None:
    """In bfloat16 they would be multiples of 0.5 px from 64 px on."""
    model = build(1, 1, 128).eval()
    model.rpn.nms_thresh = 0.2  # few boxes and no masks: bfloat16 takes minutes on some processors
    model.roi_heads.mask_roi_pool = None
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        [found] = model([random_images(1, 128, 128)])
    assert found["boxes"].dtype == found["scores"].dtype == torch.float32
    far = found["boxes"][(found["boxes"] > 64) & (found["boxes"] < 128)]
    assert len(far) and (far % 0.5 != 0).float().mean() > 0.9


def test_missing_operators_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.ops, "torchvision", SimpleNamespace(nms=None))
    with pytest.raises(ImportError, match="torch of one build .its compiled operators did not"):
        fit(crops(), crops(), tmp_path / "run", 1)
    assert not (tmp_path / "run").exists()


# --- targets -----------------------------------------------------------------------------------


def test_targets_of_known_objects() -> None:
    label = np.zeros((2, 20, 30), np.uint16)
    label[1, 2:7, 10:30] = 65535
    label[0, 4:8, 0:4], label[0, 10:13, 5:25] = 3, 8
    label[0, 0:3, 20:24], label[0, 18:20, 20:24] = 5, 5
    made = targets(label)
    dtypes = {"boxes": torch.float32, "labels": torch.int64, "masks": torch.uint8}
    assert {name: value.dtype for name, value in made.items()} == dtypes
    assert made["boxes"].tolist() == [[0, 4, 4, 8], [20, 0, 24, 20], [10, 2, 30, 7]]
    assert made["labels"].tolist() == [1, 1, 2]
    planes = label[0] == 3, label[0] == 5, label[1] == 65535
    np.testing.assert_array_equal(made["masks"], np.stack(planes))


def test_narrow_objects_are_left_out() -> None:
    label = np.zeros((1, 20, 20), np.int32)
    label[0, 0:3, 0:20], label[0, 5:15, 3:6], label[0, 16:20, 16:20] = 1, 2, 3
    assert targets(label)["boxes"].tolist() == [[16, 16, 20, 20]]
    assert targets(np.full((1, 8, 6), 7))["boxes"].tolist() == [[0, 0, 6, 8]], "one that fills all"


def test_crop_without_objects_has_empty_targets() -> None:
    made = targets(np.zeros((2, 32, 48), np.uint8))
    assert [tuple(each.shape) for each in made.values()] == [(0, 4), (0,), (0, 32, 48)]
    losses = tiny_network(1, 2)([torch.rand(1, 32, 48)], [made])
    assert len(losses) == 5 and all(loss.isfinite() for loss in losses.values())


@settings(max_examples=30)
@given(hnp.arrays(np.uint8, (2, 9, 11), elements=st.integers(0, 3)), st.booleans())
def test_flips_act_on_rows_and_columns_alone(label: np.ndarray, up: bool) -> None:
    """Trap 3 of the original: classes must not be exchanged."""
    axis = 1 if up else 2
    first, second = targets(label), targets(np.flip(label, axis))
    assert torch.equal(first["labels"], second["labels"])
    assert torch.equal(first["masks"].flip(axis), second["masks"])
    size = torch.tensor([11, 9, 11, 9])
    turned = size * torch.tensor([not up, up, not up, up]) - first["boxes"]
    expected = [[2, 1, 0, 3], [0, 3, 2, 1]][up]
    assert torch.equal(turned.abs()[:, expected], second["boxes"])


@pytest.mark.parametrize("label", [np.zeros((1, 4, 4)), np.full((1, 4, 4), -1)])
def test_labels_without_object_numbers_are_refused(label: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"integers from 0 .background. of shape \(K, H, W\)"):
        ObjectCrops([np.zeros((1, 4, 4), np.float32)], [label], 4, 1)


# --- crops -------------------------------------------------------------------------------------


def arrays(seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Objects of two classes in images whose first two channels hold their numbers."""
    rng, images, labels = np.random.default_rng(seed), [], []
    for height, width in [(60, 80), (20, 50)]:
        label = np.zeros((2, height, width), np.uint16)
        for number in range(1, 7):
            top, left = rng.integers(0, height - 10), rng.integers(0, width - 10)
            label[number % 2, top : top + 5 + number, left : left + 10] = number
        labels.append(label)
        images.append(np.concatenate([label, label[:1] * 0 + 1]).astype(np.float32))
    return images, labels


def crops(n: int = 8, **options: object) -> ObjectCrops:
    return ObjectCrops(*arrays(), SIDE, n, **options)


def test_crops_show_their_targets_in_any_position() -> None:
    """The image is the label; tone keeps equal what is equal and 0 at 0."""
    count = 0
    for image, made in (crops(60)[i] for i in range(60)):
        assert image.shape == (3, SIDE, SIDE) and image.dtype == torch.float32
        for box, k, mask in zip(*made.values(), strict=True):
            left, top, right, bottom = box.int().tolist()
            inside = image[k - 1][mask.bool()]
            assert len(inside.unique()) == 1 and inside[0] > 0
            assert mask[top:bottom, left:right].sum() == mask.sum() > 0
            count += 1
    assert count > 60


def test_beyond_small_images_is_nothing() -> None:
    label = np.ones((1, 20, 10), np.uint8)
    data = ObjectCrops([np.ones((2, 20, 10), np.float32)], [label], 32, 4, augment=False)
    image, made = data[0]
    assert made["boxes"].tolist() == [[0, 0, 10, 20]]
    assert (image[:, :20, :10] == 1).all() and image.sum() == 400


# --- training ----------------------------------------------------------------------------------


def tiny_network(in_channels: int, num_classes: int, crop: int = SIDE) -> nn.Module:
    """torchvision's Mask R-CNN on one small layer."""
    backbone = nn.Sequential(
        nn.Conv2d(in_channels, 8, 5, stride=4, padding=2), nn.BatchNorm2d(8), nn.ReLU()
    )
    backbone.out_channels = 8
    return detection.MaskRCNN(
        backbone,
        min_size=crop,
        max_size=crop,
        image_mean=[0.0] * in_channels,
        image_std=[1.0] * in_channels,
        rpn_anchor_generator=detection.anchor_utils.AnchorGenerator(((8, 16),), ((1.0,),)),
        rpn_batch_size_per_image=16,  # so that chance decides which boxes count
        rpn_post_nms_top_n_train=20,
        box_roi_pool=MultiScaleRoIAlign(["0"], 4, 2),
        box_head=TwoMLPHead(8 * 16, 16),
        box_predictor=FastRCNNPredictor(16, num_classes + 1),
        mask_roi_pool=MultiScaleRoIAlign(["0"], 8, 2),
        mask_head=detection.mask_rcnn.MaskRCNNHeads(8, [8], 1),
        mask_predictor=detection.mask_rcnn.MaskRCNNPredictor(8, 8, num_classes + 1),
    )


def hooked(hook: Callable, *sizes: int) -> nn.Module:
    model = tiny_network(*sizes)
    model.register_forward_pre_hook(hook)
    return model


@pytest.fixture(scope="module")
def tiny() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TQDM_DISABLE", "1")
        patch.setattr(mask_rcnn, "build", tiny_network)
        yield


def train(folder: Path, epochs: int, **options: object) -> nn.Module:
    options = {"batch_size": 4, "learning_rate": 1e-2, "precision": "32-true"} | options
    data = options.pop("data", None) or crops(16)
    return fit(data, crops(6, seed=1, augment=False), folder, epochs, **options)


@pytest.fixture(scope="module")
def whole(tiny: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path, str, str]:
    """A run of four epochs: its network, its folder, and what it prints; warnings are errors."""
    folder, out, err = tmp_path_factory.mktemp("whole"), io.StringIO(), io.StringIO()
    streams = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with streams[0], streams[1], warnings.catch_warnings(action="error"):
        model = train(folder, 4)
    return model, folder, out.getvalue(), err.getvalue()


def test_run_learns_and_tells_its_epochs(whole: tuple) -> None:
    model, folder, out, err = whole
    assert not err and not model.training
    assert [line.split(":")[0] for line in out.splitlines()] == [
        f"epoch {n}/4" for n in range(1, 5)
    ]
    log = tr.history(folder)
    assert log["loss"][-1] < log["loss"][0] and np.isfinite(log["val_loss"]).all()
    assert log["learning_rate"] == pytest.approx([1e-2] * 4)


def test_interrupted_run_ends_with_the_same_weights(whole, tmp_path, monkeypatch) -> None:
    calls = itertools.count()

    def cut(*_: object) -> None:
        if next(calls) == 14:  # in the third epoch, each of four steps and two of validation
            raise PowerCut

    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(mask_rcnn, "build", lambda *sizes: hooked(cut, *sizes))
        train(tmp_path, 4)
    torch.manual_seed(99)
    train(tmp_path, 4)
    for which in ("last", "best"):
        assert weights(load(tmp_path, which)) == weights(load(whole[1], which))
    assert tr.history(tmp_path)["val_loss"] == tr.history(whole[1])["val_loss"]


def test_best_epoch_is_that_of_the_lowest_validation_loss(whole: tuple) -> None:
    """The same boxes are drawn each time, so the loss of the weights can be computed again."""
    model, losses = copy.deepcopy(whole[0]), []
    data = crops(6, seed=1, augment=False)
    model.train()
    model.backbone[1].eval()
    with torch.no_grad(), torch.random.fork_rng():
        for number, part in enumerate(([0, 1, 2, 3], [4, 5])):
            torch.manual_seed(number)
            images, objects = zip(*(data[i] for i in part), strict=True)
            losses.append(sum(model(list(images), list(objects)).values()).item())
    mean = np.average(losses, weights=[4, 2])
    assert mean == pytest.approx(min(tr.history(whole[1])["val_loss"]), rel=1e-5)


@pytest.mark.usefixtures("tiny")
def test_other_runs_and_networks_are_refused(tmp_path: Path) -> None:
    train(tmp_path, 1, precision="bf16-mixed")
    with pytest.raises(ValueError, match="holds another run .*seed = 0"):
        train(tmp_path, 2, seed=1)
    images, labels = torch.rand(4, 3, 16, 16), torch.eye(2).repeat(2, 1)
    data = torch.utils.data.TensorDataset(images, labels)
    with pytest.raises(ValueError, match="holds another run .*network = MaskRCNN"):
        tr.fit(data, data, tmp_path, 2)
    with pytest.raises(ValueError, match="no checkpoint of MICRA-Net or U-Net"):
        tr.load(tmp_path)
    tr.fit(data, data, tmp_path / "other", 1)
    with pytest.raises(ValueError, match=r"best\.ckpt is no checkpoint of Mask R-CNN"):
        load(tmp_path / "other")


# --- prediction --------------------------------------------------------------------------------


class Perfect(nn.Module):
    """Finds whatever touches in a tile, as far as the tile shows it; values are numbers."""

    def __init__(self, side: int = SIDE) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.in_channels, self.transform = 1, SimpleNamespace(max_size=side)
        self.eval()

    def forward(self, tiles: list[Tensor]) -> list[dict[str, Tensor]]:
        assert len(tiles) <= mask_rcnn.TILES_PER_BATCH
        assert {tuple(tile.shape) for tile in tiles} == {(1, *[self.transform.max_size] * 2)}
        return [self.find(tile[0]) for tile in tiles]

    def find(self, tile: Tensor) -> dict[str, Tensor]:
        """Number 3 has the score 0.97, or, where it may be cut, a little more, and class 3 % 4."""
        parts = [
            (value, components(tile == value)[0] == part)
            for value in tile.unique().tolist()
            if value
            for part in range(1, components(tile == value)[1] + 1)
        ]
        return output(
            [
                (mask, 1 - value / 100 + 0.005 * at_border(mask), int(value) % 4 + 1)
                for value, mask in parts
            ],
            self.transform.max_size,
        )


def at_border(mask: np.ndarray) -> bool:
    return mask.sum() > mask[1:-1, 1:-1].sum()


def output(objects: list[tuple[np.ndarray, float, int]], side: int = SIDE) -> dict[str, Tensor]:
    """What torchvision gives, of masks (bool, or probabilities from 0.5), scores and labels."""
    masks = torch.tensor(np.array([mask for mask, *_ in objects], np.float32))
    boxes = [
        (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        for mask, *_ in objects
        for rows, columns in [[mask.any(axis).nonzero()[0] for axis in (1, 0)]]
    ]
    return {
        "boxes": torch.tensor(np.array(boxes), dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor([label for *_, label in objects], dtype=torch.int64),
        "scores": torch.tensor([score for _, score, _ in objects], dtype=torch.float32),
        "masks": masks.reshape(-1, 1, side, side),
    }


class Prescribed(Perfect):
    """Says what it is told, whatever it sees."""

    def __init__(self, *objects: tuple[np.ndarray, float, int]) -> None:
        super().__init__()
        self.objects = objects

    def find(self, tile: Tensor) -> dict[str, Tensor]:
        return output(list(self.objects))


def square(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[top:bottom, left:right] = True
    return mask


@st.composite
def scattered(draw: st.DrawFn) -> np.ndarray:
    """Numbered rectangles of 4 to 14 px, one in each square of 15 px at most."""
    height, width = draw(st.tuples(st.integers(1, 120), st.integers(1, 120)))
    image, number = np.zeros((1, height, width), np.float32), 0
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    for top in range(0, height - 3, 15):
        for left in range(0, width - 3, 15):
            tall, wide = (min(int(rng.integers(4, 15)), n) for n in (height - top, width - left))
            top_, left_ = (
                at + int(rng.integers(0, max(1, min(15, n - at) - size + 1)))
                for at, n, size in ((top, height, tall), (left, width, wide))
            )
            if rng.random() < 0.7 and number < 49:
                number += 1
                image[0, top_ : top_ + tall, left_ : left_ + wide] = number
    return image


@settings(max_examples=30)
@given(scattered(), st.sampled_from([SIDE, 64]))
def test_perfect_network_gives_every_object_once_and_whole(image: np.ndarray, side: int) -> None:
    found = predict(Perfect(side), image)
    numbers = np.unique(image[image > 0])
    # Number 1 has the highest score.
    expected = np.searchsorted(numbers, image[0]) + 1
    np.testing.assert_array_equal(found.labels, np.where(image[0] > 0, expected, 0))
    np.testing.assert_array_equal(found.classes, numbers % 4)
    np.testing.assert_allclose(found.scores, 1 - numbers / 100, atol=0.006)


def test_object_larger_than_half_a_tile_is_found() -> None:
    image = np.zeros((1, 100, 100), np.float32)
    image[0, 30:55, 30:55] = 1
    found = predict(Perfect(), image)
    assert ((found.labels > 0) == (image[0] > 0)).all()


def test_thresholds_of_score_and_mask_include_their_value() -> None:
    faint = square(20, 2, 28, 10) * np.where(square(20, 2, 28, 6), 0.5, 0.49)
    model = Prescribed(
        (square(0, 0, 8, 8), 0.5, 1), (square(10, 10, 18, 18), 0.49, 2), (faint, 0.75, 3)
    )
    found = predict(model, np.zeros((1, SIDE, SIDE), np.float32))
    expected = square(20, 2, 28, 6) + 2 * square(0, 0, 8, 8)
    np.testing.assert_array_equal(found.labels, expected)
    assert found.classes.tolist() == [2, 0] and found.scores.tolist() == [0.75, 0.5]
    assert [each.dtype for each in found] == [np.int32, np.int64, np.float32]


def test_higher_score_wins_and_doubles_are_left_out() -> None:
    """Boxes overlap by 8/12 and by 9/11 of their union: below and above 0.7."""
    a, below, above = square(0, 0, 10, 10), square(0, 2, 10, 12), square(20, 0, 30, 10)
    double = square(20, 1, 30, 11)
    model = Prescribed((below, 0.6, 1), (a, 0.9, 2), (double, 0.7, 1), (above, 0.8, 2))
    found = predict(model, np.zeros((1, SIDE, SIDE), np.float32))
    np.testing.assert_array_equal(found.labels, a + 2 * above + 3 * (below & ~a))
    assert found.classes.tolist() == [1, 1, 0]


def test_hidden_and_empty_objects_are_not_counted() -> None:
    small = square(4, 4, 9, 9)
    model = Prescribed(
        (small, 0.6, 1),
        (square(0, 0, 12, 12), 0.9, 2),
        (square(20, 20, 28, 28) * 0.4, 0.8, 3),
        (square(20, 2, 28, 10), 0.5, 4),
    )
    found = predict(model, np.zeros((1, SIDE, SIDE), np.float32))
    np.testing.assert_array_equal(found.labels, square(0, 0, 12, 12) + 2 * square(20, 2, 28, 10))
    assert found.classes.tolist() == [1, 3]


def test_what_lies_beyond_the_image_is_not_found() -> None:
    """A tile of 32 px reaches 12 px over an image of 20 px."""
    model = Prescribed((square(2, 12, 10, 30), 0.9, 1), (square(12, 18, 18, 26), 0.8, 1))
    found = predict(model, np.zeros((1, SIDE, 20), np.float32))
    np.testing.assert_array_equal(found.labels, square(2, 12, 10, 30)[:, :20])
    assert found.scores.shape == (1,), "2 px are too few"


def test_memory_does_not_grow_with_objects_times_pixels() -> None:
    """Some 900 objects; with one plane for each they would take 240 MB."""
    model = Prescribed((square(13, 13, 19, 19), 0.9, 1))
    image = np.zeros((1, 512, 512), np.float32)
    predict(model, image[:, :64])
    tracemalloc.start()
    found = predict(model, image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found.scores) == found.labels.max() == 31**2
    assert peak < 20e6


def test_bad_images_and_modes_are_refused(network: nn.Module) -> None:
    model, image = Perfect(), np.zeros((1, 40, 40), np.float32)
    with pytest.raises(ValueError, match="must have the shape"):
        predict(model, image[0])
    with pytest.raises(ValueError, match="NaN or infinite"):
        predict(model, image + np.nan)
    with pytest.raises(ValueError, match=r"call model\.eval"):
        predict(network, image)
