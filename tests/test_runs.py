"""A run is known by its settings and data, has one owner, and stops as it is told."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_images, random_model
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from test_train import EPOCHS, assert_same_run, examples, files, fit, in_epoch, weights
from torch.utils.data import ConcatDataset, Dataset, TensorDataset, random_split

from micranet_helpers import train as tr
from micranet_helpers.data import dataset
from micranet_helpers.data.content import examine
from micranet_helpers.data.crops import CropDataset, Rule
from micranet_helpers.maps.selftraining import PixelCrops
from micranet_helpers.networks.micranet import MICRANet
from micranet_helpers.train import learner as learners
from micranet_helpers.train.trainer import AtomicCheckpointIO

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("one_thread", "no_bar")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    os.environ["TQDM_DISABLE"] = "1"
    folder = tmp_path_factory.mktemp("finished")
    fit(folder)
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


class Own(Dataset):
    """Somebody's Dataset: no ``labels``, no ``tensors``."""

    def __init__(self, items: Dataset, change: Callable = lambda image, labels: (image, labels)):
        self.items, self.change = items, change

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> tuple:
        return self.change(*self.items[i])


def noisy(draw: Callable) -> Callable:
    return lambda image, labels: (image + 0.01 * draw(), labels)


# --- fingerprints ------------------------------------------------------------------------------


@given(st.data())
def test_any_other_pixel_or_label_is_other_data(data: st.DataObject) -> None:
    x, y = examples(6).tensors
    before = examine(TensorDataset(x, y), "training").digest
    assert examine(TensorDataset(x.clone(), y.clone()), "training").digest == before
    changed = data.draw(st.sampled_from([x, y]))
    place = tuple(data.draw(st.integers(0, side - 1)) for side in changed.shape)
    changed[place] = 1 - changed[place]
    assert examine(TensorDataset(x, y), "training").digest != before


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.int64, torch.float64])
def test_data_are_known_in_any_type_of_labels_and_dataset(kind: torch.dtype) -> None:
    plain = examples(12)
    x, y = plain.tensors
    wanted = examine(plain, "training").digest
    for same in (TensorDataset(x, y.to(kind)), Own(plain), ConcatDataset([plain]),
                 Own(plain, lambda image, labels: (image.numpy(), labels.to(kind).numpy()))):
        assert examine(same, "training").digest == wanted


@pytest.mark.parametrize("change", ["image", "label", "offset"])
def test_crops_are_known_by_their_pixels_labels_and_scale(tmp_path: Path, change: str) -> None:
    def made(**changes: object) -> CropDataset:
        label = np.zeros((1, 32, 32), np.uint8)
        label[0, :9, :9] = 1
        values = {"image": np.arange(1024, dtype=np.uint16).reshape(1, 32, 32), "label": label}
        sample = dataset.Sample("a", **{**values, "offset": 0.0, **changes})
        about = dataset.About(("ring",), "here", "CC0")
        path = dataset.write(tmp_path / f"{len(os.listdir(tmp_path))}.h5", {"t": [sample]}, about)
        return CropDataset(path, "t", 16, 16, Rule(("ring",)))

    other = {"image": np.ones((1, 32, 32), np.uint16), "offset": 1.0,
             "label": np.eye(32, dtype=np.uint8)[None]}[change]
    digests = [examine(crops, "training").digest
               for crops in (made(), made(), made(**{change: other}))]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("draw", [lambda: torch.rand(()), np.random.default_rng().random,
                                  lambda: float(np.random.rand())])
def test_images_drawn_anew_do_not_make_another_run(draw: Callable, tmp_path: Path) -> None:
    fit(tmp_path, 1, Own(examples(), noisy(draw)))
    fit(tmp_path, 2, Own(examples(), noisy(draw)))
    assert tr.history(tmp_path)["epoch"] == [1, 2]
    x, y = examples().tensors
    with pytest.raises(ValueError, match="other training data"):
        fit(tmp_path, 3, Own(TensorDataset(x, 1 - y), noisy(draw)))


def test_a_set_of_random_crops_is_the_same_in_every_epoch() -> None:
    images = [random_images(1, 40, 40, seed=n).numpy() for n in range(2)]
    crops = PixelCrops(images, [(image > 0.5).astype(np.float32) for image in images], 16, 4)
    before = examine(crops, "training", "UNet").digest
    crops.set_epoch(5)
    assert examine(crops, "training", "UNet").digest == before
    masks = PixelCrops(images, [255 * (image > 0.5).astype(np.float32) for image in images], 16, 4)
    with pytest.raises(ValueError, match="divide masks of 255"):
        examine(masks, "training", "UNet")


# --- the front door ----------------------------------------------------------------------------


X, Y = examples().tensors


def spoilt(value: float) -> torch.Tensor:
    images = X.clone()
    images[5, 0, 3, 3] = value
    return images


def one_outlier() -> TensorDataset:
    """The variance of its batch is infinite, the loss is not."""
    return TensorDataset(torch.where(torch.arange(24)[:, None, None, None] == 3, 1e20 * X, X), Y)


def not_finite() -> torch.nn.Module:
    model = random_model(1, 2)
    model.linear1.weight.data[0] = torch.nan
    return model


def beside(fill: float) -> TensorDataset:
    """Two more classes, 2 and 3, with the same label everywhere."""
    return TensorDataset(X, torch.cat([Y, torch.full((24, 2), fill)], 1))


TRAINING = {
    "255": (TensorDataset(X, 255 * Y), "Image 0 of the training set has labels that are not 0, 1"),
    "numbers of classes": (TensorDataset(X, Y[:, 0]), "needs labels of the shape"),
    "NaN": (TensorDataset(spoilt(torch.nan), Y), "Image 5 of the training set holds NaN"),
    "infinite": (TensorDataset(spoilt(-torch.inf), Y), "Image 5 of the training set holds NaN"),
    "bytes": (TensorDataset((255 * X).byte(), Y), "are torch.uint8 .* bytes by / 255"),
    "double": (TensorDataset(X.double(), Y), "are torch.float64"),
    "no channel": (TensorDataset(X[:, 0], Y), r"make them float32 \(C, H, W\)"),
    "three parts": (TensorDataset(X, Y, Y), "must be .image, labels."),
    "sizes": (ConcatDataset([examples(2), TensorDataset(X[:2, :, :8, :8], Y[:2])]), "of one side"),
    "text": (Own(examples(), lambda image, labels: (image, "ring")), "must be .image, labels."),
    "iterator": (iter([(X[0], Y[0])]), "a Dataset of known length"),
    "no image": (TensorDataset(X[:0], Y[:0]), "training set is empty"),
    "1 or unknown": (TensorDataset(X, torch.where(Y == 0, torch.nan, Y)), "images are positive"),
    "always 0": (beside(0), "No training image is positive for class 2, 3: add"),
    "always 1": (beside(1), "All training images are positive for class 2, 3: add"),
    "never known": (beside(torch.nan), "No training image is positive for class 2, 3: add"),
}
VALIDATION = {
    "no image": (TensorDataset(X[:0], Y[:0]), "validation set is empty"),
    "unknown": (TensorDataset(X, torch.full_like(Y, torch.nan)), "All validation labels are unkn"),
    "infinite": (TensorDataset(spoilt(torch.inf), Y), "Image 5 of the validation set"),
    "one class": (TensorDataset(X, Y[:, :1]), "differ in channels or classes"),
}
REFUSED = [
    *(({"train": data}, words) for data, words in TRAINING.values()),
    *(({"validation": data}, words) for data, words in VALIDATION.values()),
    ({"epochs": 0}, "whole numbers from 1 on"), ({"epochs": 2.5}, "whole numbers from 1 on"),
    ({"batch_size": 0}, "whole numbers"), ({"learning_rate": 0}, "above 0 and finite"),
    ({"pos_weight": [1, np.inf]}, "leave out a class"), ({"network": "U-Net"}, "must be one of"),
    ({"pos_weight": [1.0]}, "pos_weight needs 2 values, not 1"),
    ({"frozen": ["1c"]}, "Only layers of MICRANet, 1a, .*, 4b, can be frozen"),
    ({"start": MICRANet(1, 2), "network": "UNet"}, "The start is a MICRANet: give a UNet"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_what_cannot_be_learnt_from_is_refused_at_once(options, words, tmp_path: Path) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        fit(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", [
    {"learning_rate": 1e30}, {"train": TensorDataset(1e30 * X, Y)}, {"pos_weight": [1e38, 1]},
    {"train": one_outlier()}, {"start": not_finite()},
])  # fmt: skip
def test_a_training_that_diverges_ends(options: dict, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no longer finite in epoch [12]: lower the learning rate"):
        fit(tmp_path, 2, **options)


def test_any_dataset_and_type_of_labels_trains(tmp_path: Path, finished: Path) -> None:
    x, y = examples().tensors
    fit(tmp_path / "a", train=TensorDataset(x, y.long()))
    assert_same_run(tmp_path / "a", finished)
    parts = random_split(Own(TensorDataset(x, y.bool())), [16, 8])
    fit(tmp_path / "b", 1, parts[0], validation=ConcatDataset([parts[1]]))


def test_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    fit(Path("~/run"), 1)
    assert (tmp_path / "run" / "best.ckpt").is_file() and tr.history("~/run")["epoch"] == [1]


@pytest.mark.slow
def test_a_start_in_a_wrapping_begins_the_same_run(tmp_path: Path) -> None:
    model = random_model(1, 2)
    fit(tmp_path, 1, start=torch.nn.DataParallel(torch.compile(model)))
    fit(tmp_path, 1, start=model)


# --- checkpoints that belong together ----------------------------------------------------------


@pytest.mark.parametrize("which", ["best", "last"])
def test_deleting_a_checkpoint_as_told_trains_the_same_again(
    which: str, copied: Path, finished: Path
) -> None:
    (copied / f"{which}.ckpt").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="delete it and train again"):
        fit(copied)
    (copied / f"{which}.ckpt").unlink()
    fit(copied)
    assert_same_run(copied, finished)


def test_a_best_epoch_of_another_run_is_refused(copied: Path, tmp_path: Path) -> None:
    fit(tmp_path / "other", 1, seed=1)
    shutil.copy(tmp_path / "other" / "best.ckpt", copied)
    with pytest.raises(ValueError, match="holds another run .seed = 1."):
        fit(copied)
    with pytest.raises(ValueError, match=r"best\.ckpt does not belong to the last\.ckpt"):
        tr.load(copied)


def test_exchanged_checkpoints_are_refused(tmp_path: Path, monkeypatch) -> None:
    areas = iter(np.linspace(1, 0, 8))  # the first epoch is the best
    monkeypatch.setattr(learners, "roc_areas", lambda *_: [next(areas)])
    fit(tmp_path, 2)
    best, last, other = (tmp_path / f"{name}.ckpt" for name in ("best", "last", "other"))
    for source, target in ((best, other), (last, best), (other, last)):
        source.rename(target)
    with pytest.raises(ValueError, match="does not belong"):
        tr.load(tmp_path)
    shutil.copy(best, last)
    with pytest.raises(ValueError, match="does not belong"):
        tr.load(tmp_path)


@pytest.mark.parametrize(("epoch", "saved"), [(EPOCHS - 1, False), (1, True)])
def test_a_stop_between_or_after_the_two_checkpoints_is_no_fault(
    epoch: int, saved: bool, tmp_path: Path, finished: Path, monkeypatch
) -> None:
    save = AtomicCheckpointIO.save_checkpoint

    def stop(self: object, checkpoint: dict, path: str, **options: object) -> None:
        ends = checkpoint["epoch"] == epoch and Path(path).stem == "last"
        if saved or not ends:
            save(self, checkpoint, path, **options)
        if ends:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(AtomicCheckpointIO, "save_checkpoint", stop)
        fit(tmp_path)
    half, whole = tr.history(tmp_path), tr.history(finished)
    assert [half["loss"], half["val_score"]] == [whole["loss"][:2], whole["val_score"][:2]]
    assert saved or weights(tr.load(tmp_path)) == weights(tr.load(finished))
    fit(tmp_path)
    assert_same_run(tmp_path, finished)


# --- one owner, and signals --------------------------------------------------------------------


def test_two_trainings_do_not_mix(tmp_path: Path, finished: Path) -> None:
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / ".lock"):
        with pytest.raises(ValueError, match="Another program is writing to .*run"):
            fit(tmp_path / "run")
        assert list(files(tmp_path / "run")) == [".lock"]
    fit(tmp_path / "run")
    assert_same_run(tmp_path / "run", finished)


def test_a_finished_run_is_read_while_another_process_has_it(copied: Path) -> None:
    with FileLock(copied / ".lock"):
        assert weights(fit(copied)) == weights(tr.load(copied))


@pytest.mark.parametrize(("number", "ends"), [(signal.SIGTERM, SystemExit),
                                              (signal.SIGINT, KeyboardInterrupt)])
def test_signals_stop_a_training_and_lose_nothing(
    number: int, ends: type[BaseException], tmp_path: Path, finished: Path
) -> None:
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]

    def send() -> BaseException:
        os.kill(os.getpid(), number)
        return AssertionError("not stopped")

    with pytest.raises(ends) as caught:
        fit(tmp_path / "run", train=in_epoch(2, send))
    assert number != signal.SIGTERM or caught.value.code == 143
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert tr.history(tmp_path / "run")["epoch"] == [1]
    fit(tmp_path / "run", EPOCHS)
    assert_same_run(tmp_path / "run", finished)
