"""Training: the same weights after a kill, nothing lost on a full disk, nothing run from a file."""

import math
import os
import random
import shutil
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from conftest import random_images, random_model
from damage import full_disk
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.data import Dataset, TensorDataset

from micranet_helpers import train as tr
from micranet_helpers.networks.micranet import LAYERS, MICRANet
from micranet_helpers.networks.precision import choose_precision
from micranet_helpers.networks.unet import UNet
from micranet_helpers.train import learner as learners

EPOCHS = 3
SCHEDULES = ("cosine", "plateau")
pytestmark = pytest.mark.usefixtures("one_thread", "no_bar")
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and limits")


def examples(n: int = 24, seed: int = 0) -> TensorDataset:
    """Dark and bright images of 16×16 px; class 0 is bright, class 1 is a coin thrown."""
    images = random_images(n, 1, 16, 16, seed=seed)
    bright = torch.arange(n) % 2
    images = images * (0.3 + 0.7 * bright[:, None, None, None])
    coin = (random_images(n, seed=seed + 1) > 0.5).long()
    return TensorDataset(images, torch.stack([bright, coin], 1).float())


class Breaking(Dataset):
    """Examples that raise an error once ``reads`` of them were read."""

    def __init__(
        self, reads: int, error: Callable[[], BaseException], data: TensorDataset | None = None
    ) -> None:
        self.data, self.reads, self.error = data or examples(), reads, error
        self.labels = self.data.tensors[1]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> tuple[Tensor, ...]:
        self.reads -= 1
        if self.reads < 0:
            raise self.error()
        return self.data[i]


class PowerCut(Exception):
    pass


def in_epoch(epoch: int, error: Callable[[], BaseException] = PowerCut) -> Breaking:
    """Break in the middle of an epoch, counted from 1; the check reads one image three times."""
    return Breaking(2 + 24 * epoch + 10, error)


def fit(folder: Path, epochs: int = EPOCHS, train: Dataset | None = None, **options) -> MICRANet:
    options = {"batch_size": 8, "learning_rate": 2e-3, "precision": "32-true"} | options
    train = examples() if train is None else train
    validation = options.pop("validation", examples(12, seed=5))
    return tr.fit(train, validation, folder, epochs, **options)


def weights(model: MICRANet) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


def files(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def finished(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folder of a run that nothing interrupted, by schedule. Only to be read."""
    folders = {name: tmp_path_factory.mktemp(name) for name in SCHEDULES}
    for name, folder in folders.items():
        fit(folder, schedule=name)
    return folders


@pytest.fixture
def copied(finished: dict[str, Path], tmp_path: Path) -> Path:
    """The finished cosine run in a folder that may be changed."""
    return shutil.copytree(finished["cosine"], tmp_path / "run")


def assert_same_run(folder: Path, expected: Path) -> None:
    for which in ("last", "best"):
        assert weights(tr.load(folder, which)) == weights(tr.load(expected, which))
    logs = [tr.history(each) for each in (folder, expected)]
    for log in logs:
        assert min(log.pop("seconds")) > 0  # no two runs take the same time
    assert logs[0] == logs[1]


# A run and its continuation


def test_fit_gives_the_best_epoch_in_evaluation_mode(finished: dict[str, Path]) -> None:
    folder = finished["cosine"]
    model = fit(folder)
    assert not model.training
    assert (model.in_channels, model.num_classes) == (1, 2)
    assert weights(model) == weights(tr.load(folder)) == weights(tr.load(folder, "best"))
    scores = tr.history(folder)["val_score"]
    assert min(scores) < max(scores)
    best = torch.load(folder / "best.ckpt", weights_only=True)
    assert best["epoch"] == np.argmax(scores)


def test_training_learns_what_can_be_learnt(tmp_path: Path) -> None:
    model = fit(tmp_path, 8, batch_size=4)
    images, labels = examples(40, seed=9).tensors
    assert ((model(images) > 0) == labels.bool())[:, 0].float().mean() > 0.9
    losses = tr.history(tmp_path)["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.faults
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_interrupted_run_ends_with_the_same_weights(
    finished: dict[str, Path], tmp_path: Path, schedule: str, epoch: int
) -> None:
    with pytest.raises(PowerCut):
        fit(tmp_path, train=in_epoch(epoch), schedule=schedule)
    torch.manual_seed(99)
    fit(tmp_path, schedule=schedule)
    assert_same_run(tmp_path, finished[schedule])


SCRIPT = """
    import os, signal, sys, torch
    sys.path.insert(0, {tests!r})
    import test_train as t
    torch.set_num_threads(1)
    kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
    t.fit({folder!r}, train=t.in_epoch(2, kill) if sys.argv[1] == "kill" else None)
"""


@pytest.mark.faults
@posix
@pytest.mark.slow
def test_killed_process_goes_on_in_silence(finished: dict[str, Path], tmp_path: Path) -> None:
    """Run in a process of its own: here pytest would catch the warnings."""
    tests = str(Path(__file__).parent)
    script = textwrap.dedent(SCRIPT).format(tests=tests, folder=str(tmp_path / "run"))
    for what, expected in [("kill", -9), ("finish", 0)]:
        done = subprocess.run(
            [sys.executable, "-c", script, what], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == expected, done.stderr
        assert done.stderr == ""
        epochs = ["1/3"] if what == "kill" else ["2/3", "3/3"]
        assert [line.split()[1].strip(":") for line in done.stdout.splitlines()] == epochs
    assert_same_run(tmp_path / "run", finished["cosine"])


def test_same_seed_same_weights_other_seed_others(tmp_path: Path) -> None:
    torch.manual_seed(1)
    same = fit(tmp_path / "same", 1)
    torch.manual_seed(2)
    assert weights(same) == weights(fit(tmp_path / "again", 1))
    assert weights(same) != weights(fit(tmp_path / "other", 1, seed=1))


def test_order_of_images_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        shuffle = learners.Shuffle(range(50), seed)
        shuffle.set_epoch(epoch)
        assert len(shuffle) == 50
        return list(shuffle)

    assert sorted(order(0, 0)) == list(range(50))
    assert order(3, 4) == order(3, 4)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_dropout_differs_from_step_to_step(tmp_path: Path) -> None:
    inputs, outputs = [], []

    def note(module: nn.Module, args: tuple, output: Tensor) -> None:
        if isinstance(module, nn.Dropout2d) and module.training:
            inputs.append((args[0] != 0).any(3).any(2))  # of each channel
            outputs.append((output != 0).any(3).any(2))

    hook = register_module_forward_hook(note)
    fit(tmp_path, 2)
    hook.remove()
    alive = torch.stack(inputs).all(0)
    assert alive.sum() > 100
    kept = {tuple(output[alive].tolist()) for output in outputs}
    assert len(kept) == len(outputs) == 6


def test_global_random_states_are_left_as_they_were(tmp_path: Path) -> None:
    def states() -> tuple:
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = states()
    fit(tmp_path, 1)
    assert states() == before


def test_finished_run_is_loaded_not_repeated(
    copied: Path, monkeypatch: pytest.MonkeyPatch, finished: dict[str, Path]
) -> None:
    monkeypatch.setattr(pl.Trainer, "fit", lambda *args, **options: pytest.fail("trains"))
    before = files(copied)
    assert weights(fit(copied)) == weights(tr.load(finished["cosine"]))
    fit(copied, EPOCHS - 1)
    assert files(copied) == before


def test_more_epochs_stretch_the_cosine(tmp_path: Path) -> None:
    fit(tmp_path, 2)
    assert tr.history(tmp_path)["learning_rate"][-1] == pytest.approx(0, abs=1e-9)
    fit(tmp_path, 4)
    history = tr.history(tmp_path)
    assert history["epoch"] == [1, 2, 3, 4]
    progress = (9 / 12 - 0.1) / 0.9  # after 9 of 12 steps, a tenth of them for the warm-up
    rate = 2e-3 * 0.5 * (1 + math.cos(math.pi * progress))
    assert history["learning_rate"][2] == pytest.approx(rate)
    assert history["learning_rate"][3] == pytest.approx(0, abs=1e-9)


def test_history_has_one_row_per_epoch(finished: dict[str, Path]) -> None:
    history = tr.history(finished["plateau"])
    scores = ["val_loss", "val_accuracy", "val_exact", "val_score"]
    assert list(history) == ["epoch", "loss", *scores, "learning_rate", "seconds"]
    assert history["epoch"] == [1, 2, 3]
    assert all(len(values) == 3 and np.isfinite(values).all() for values in history.values())
    assert history["learning_rate"] == pytest.approx([2e-3] * 3)
    for exact, accuracy in zip(history["val_exact"], history["val_accuracy"], strict=True):
        assert 0 <= exact <= accuracy <= 1


def test_plateau_divides_the_rate_by_ten() -> None:
    """After ten epochs without a lower loss, down to 1e-5."""
    rates = []
    schedule = learners.Learner(1, 2, 1e-3, "plateau").configure_optimizers()["lr_scheduler"]
    for _ in range(40):
        schedule["scheduler"].step(1.0)
        rates.append(schedule["scheduler"].get_last_lr()[0])
    assert [rates[0], rates[10], rates[11], rates[-1]] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-5])
    assert schedule["monitor"] == "val_loss"


@pytest.mark.filterwarnings("error:The dirpath has changed")
def test_moved_run_keeps_its_best_epoch(tmp_path: Path, monkeypatch) -> None:
    fit(tmp_path / "here", 2)
    before = weights(tr.load(tmp_path / "here"))
    (tmp_path / "here").rename(tmp_path / "there")
    monkeypatch.setattr(learners, "roc_areas", lambda *_: [0.0])  # the third epoch is worse
    fit(tmp_path / "there", 3)
    scores = tr.history(tmp_path / "there")["val_score"]
    assert max(scores[:2]) > scores[2]
    assert weights(tr.load(tmp_path / "there")) == before


# Options


def test_bfloat16_run_keeps_float32_weights(tmp_path: Path) -> None:
    model = fit(tmp_path, 2, precision="bf16-mixed")
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())
    assert np.isfinite(tr.history(tmp_path)["val_loss"]).all()
    assert weights(model) != weights(fit(tmp_path / "full", 2))


@pytest.mark.parametrize("native, precision", [(True, "bf16-mixed"), (False, "16-mixed")])
def test_emulated_bfloat16_is_not_chosen(monkeypatch, native: bool, precision: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported",
                        lambda including_emulation=True: native or including_emulation)
    assert choose_precision() == precision


def test_logits_of_all_crops_in_their_order() -> None:
    model, images = random_model(num_classes=2), random_images(64 + 3, 1, 16, 16)
    with torch.no_grad():
        expected = torch.cat([model(image[None]) for image in images])
    logits = tr.logits_of(model, TensorDataset(images, torch.zeros(len(images), 2)))
    torch.testing.assert_close(logits, expected)
    assert not logits.requires_grad and logits.device.type == "cpu"


def test_no_crop_and_a_network_in_training_are_refused() -> None:
    model, images = random_model(), random_images(2, 1, 16, 16)
    with pytest.raises(ValueError, match="no crop to classify"):
        tr.logits_of(model, TensorDataset(images[:0], torch.zeros(0, 3)))
    with pytest.raises(ValueError, match="training mode"):
        tr.logits_of(model.train(), TensorDataset(images, torch.zeros(2, 3)))


@pytest.mark.slow
def test_workers_change_nothing(finished: dict[str, Path], tmp_path: Path) -> None:
    fit(tmp_path, num_workers=1)
    assert_same_run(tmp_path, finished["cosine"])


@pytest.mark.slow
def test_two_devices_learn_as_one_with_twice_the_batch(tmp_path: Path, monkeypatch) -> None:
    """Without dropout, which is drawn anew, and batch norm, whose statistics are of a device."""

    def still(*sizes: int) -> MICRANet:
        model = MICRANet(*sizes)
        model.dropout = nn.Identity()
        for layer in LAYERS:
            setattr(model, f"bnorm{layer}", nn.Identity())
        return model

    monkeypatch.setitem(learners.NETWORKS, "MICRANet", still)
    options = {"schedule": "plateau"}
    two = {"devices": 2, "strategy": "ddp_spawn", "batch_size": 4, **options}
    one = fit(tmp_path / "one", 3, batch_size=8, **options)
    fit(tmp_path / "two", 1, **two)
    resumed = fit(tmp_path / "two", 3, **two)  # goes on
    expected, found = (tr.history(tmp_path / name) for name in ("one", "two"))
    for name in ("loss", "val_loss", "val_score"):
        np.testing.assert_allclose(found[name], expected[name], 2e-3)
    assert len({*found["loss"]}) == 3
    for name, value in one.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, atol=1e-3, rtol=1e-2)


def test_devices_share_the_images_of_an_order(monkeypatch) -> None:
    order = learners.Shuffle(examples(7), 3)
    alone = [*order]
    shares = []
    for rank in range(3):
        monkeypatch.setattr(learners.Shuffle, "_place", staticmethod(lambda rank=rank: (rank, 3)))
        shares.append([*order])
    assert {len(share) for share in shares} == {3, len(order)}
    dealt = [index for step in zip(*shares, strict=True) for index in step]
    assert dealt == [*alone, *alone[:2]]


def test_a_bar_is_shown_unless_disabled(tmp_path: Path, capfd, monkeypatch) -> None:
    monkeypatch.delenv("TQDM_DISABLE")
    fit(tmp_path, 2)
    assert "it/s" in "".join(capfd.readouterr())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_training_on_a_gpu(tmp_path: Path) -> None:
    model = fit(tmp_path, 2, precision="auto")
    assert not model.linear1.weight.is_cuda
    assert np.isfinite(tr.history(tmp_path)["val_loss"]).all()


# Masks, unknown labels, fine-tuning


def mask_examples(n: int = 16, seed: int = 0) -> TensorDataset:
    """Two masks: where a flat image is bright, where it is dark."""
    images = (random_images(n, 1, 4, 4, seed=seed) > 0.5).float()
    images = nn.functional.interpolate(images, scale_factor=8)
    return TensorDataset(images, torch.cat([images, 1 - images], 1))


def test_unet_learns_masks(tmp_path: Path) -> None:
    options = {"validation": mask_examples(6, seed=5), "learning_rate": 1e-2, "batch_size": 4}
    model = fit(tmp_path, 6, mask_examples(), network="UNet", pos_weight=[1.0, 2.0], **options)
    assert isinstance(model, UNet) and not model.training
    images, masks = mask_examples(8, seed=9).tensors
    assert ((model(images) > 0) == masks.bool()).float().mean() > 0.97
    log = tr.history(tmp_path)
    assert 0.9 < log["val_exact"][-1] <= log["val_accuracy"][-1] <= 1
    with pytest.raises(ValueError, match="network = UNet"):
        fit(tmp_path, 6, mask_examples(), network="FalkUNet", **options)


def test_interrupted_unet_ends_with_the_same_weights(tmp_path: Path) -> None:
    options = {"validation": mask_examples(6, seed=5), "learning_rate": 1e-2, "network": "UNet"}
    fit(tmp_path / "whole", 2, mask_examples(), **options)
    broken = Breaking(2 + 2 * 16 + 3, PowerCut, mask_examples())
    with pytest.raises(PowerCut):
        fit(tmp_path / "again", 2, broken, **options)
    fit(tmp_path / "again", 2, mask_examples(), **options)
    assert_same_run(tmp_path / "again", tmp_path / "whole")


@pytest.mark.parametrize("network", learners.NETWORKS)
def test_unknown_labels_count_neither_in_loss_nor_scores(network: str, monkeypatch) -> None:
    """As if only the known ones were there, in any number of batches."""
    learner = learners.Learner(1, 2, pos_weight=[3, 0.5], network=network).eval()
    labels = random_images(4, 2, 16, 16).round() if "UNet" in network else torch.eye(4)[:, :2]
    images, logits = random_images(4, 1, 16, 16), torch.randn(labels.shape)
    unknown = random_images(*labels.shape, seed=3) > 0.6
    unknown[1], unknown[0, 1] = True, True
    known = ~unknown
    logged = {}
    monkeypatch.setattr(learner, "forward", lambda _: logits.requires_grad_())
    monkeypatch.setattr(learner, "log", lambda name, value, **_: logged.update({name: value}))
    monkeypatch.setattr(learner, "log_dict", lambda values, **_: logged.update(values))
    learner.validation_step((images, labels.masked_fill(unknown, torch.nan)), 0)
    weight = torch.tensor([3, 0.5]).reshape(2, *[1] * (labels.dim() - 2))
    losses = nn.functional.binary_cross_entropy_with_logits(
        logits, labels, pos_weight=weight, reduction="none"
    )
    expected = losses[known].mean()
    assert logged["val_loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    right = (logits > 0) == labels.bool()
    assert logged["val_accuracy"] == pytest.approx(right[known].float().mean().item())
    rows = (right | unknown).all(1)[known.any(1)]
    assert logged["val_exact"] == pytest.approx(rows.float().mean().item())
    [slope] = torch.autograd.grad(logged["val_loss"], logits)
    assert (slope[unknown] == 0).all() and (slope[known] != 0).all()


def test_validation_is_the_mean_over_known_labels_of_all_batches(tmp_path: Path) -> None:
    images, labels = examples(12, seed=5).tensors
    labels[2:8], labels[10, 1] = torch.nan, torch.nan
    weight = [3, 0.5]
    fit(tmp_path, 1, validation=TensorDataset(images, labels), batch_size=4, pos_weight=weight)
    logits, known = tr.load(tmp_path)(images), ~labels.isnan()
    log = tr.history(tmp_path)
    yes, no = logits.sigmoid().log(), (-logits).sigmoid().log()
    loss = -(torch.tensor(weight) * labels * yes + (1 - labels) * no)[known].mean()
    assert log["val_loss"][0] == pytest.approx(loss.item(), rel=1e-4)
    right = (logits > 0) == (labels > 0.5)
    assert log["val_accuracy"][0] == pytest.approx(right[known].float().mean().item(), abs=1e-6)
    rows = (right | ~known).all(1)[known.any(1)]
    assert log["val_exact"][0] == pytest.approx(rows.float().mean().item(), abs=1e-6)
    columns = zip(labels.T, logits.detach().T, known.T, strict=True)
    area = np.mean([roc_auc_score(each[k], logit[k]) for each, logit, k in columns])
    assert log["val_score"][0] == pytest.approx(area - 1e-3 * loss.item(), abs=1e-5)


def test_without_a_ranking_the_loss_decides(tmp_path: Path) -> None:
    images = examples(12, seed=5).tensors[0]
    fit(tmp_path, 2, validation=TensorDataset(images, torch.zeros(12, 2)))
    log = tr.history(tmp_path)
    assert log["val_score"] == pytest.approx([-1e-3 * loss for loss in log["val_loss"]], rel=1e-4)
    best = int(np.argmax(log["val_score"]))
    assert torch.load(tmp_path / "best.ckpt", weights_only=True)["epoch"] == best


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_batch_of_which_nothing_is_known_has_no_loss(tmp_path: Path) -> None:
    images, labels = examples().tensors
    labels[:16] = torch.nan
    learner = learners.Learner(1, 2)
    loss = learner.training_step((images[:3], labels[:3]), 0)
    loss.backward()
    assert loss == 0 and not any(p.grad.any() for p in learner.parameters())
    model = fit(tmp_path, 2, TensorDataset(images, labels), batch_size=2)
    assert all(p.isfinite().all() for p in model.parameters())


def test_frozen_layers_keep_every_bit_and_the_others_learn(tmp_path: Path) -> None:
    start = random_model(1, 2)
    before = weights(start)
    frozen = ("1a", "1b", "2a", "2b", "3a", "3b")
    options = {"start": start, "frozen": frozen}
    fit(tmp_path, 1, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(tmp_path, 3, **options)
    after = weights(tr.load(tmp_path, "last"))
    same = {name for name in before if after[name] == before[name]}
    assert same == {name for name in before if name.split(".")[0][-2:] in frozen}
    assert weights(start) == before


def test_run_keeps_its_pool(tmp_path: Path) -> None:
    fit(tmp_path, 1, pool="lse", sharpness=2)
    model = fit(tmp_path, 2, pool="lse", sharpness=2)
    assert (model.pool, model.sharpness) == ("lse", 2.0)


def test_run_without_a_record_of_options_goes_on(copied: Path) -> None:
    """Runs begun before there was a choice of pools."""
    checkpoint = torch.load(copied / "last.ckpt", weights_only=True)
    del checkpoint["hyper_parameters"]["options"]
    torch.save(checkpoint, copied / "last.ckpt")
    assert len(tr.history(copied)["epoch"]) == EPOCHS
    fit(copied, EPOCHS + 1)
    assert len(tr.history(copied)["epoch"]) == EPOCHS + 1


def test_training_begins_with_the_given_weights(tmp_path: Path) -> None:
    start = random_model(1, 2)
    model = fit(tmp_path, 1, start=start, learning_rate=1e-9, seed=3)
    for a, b in zip(model.parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


# Refusals


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"seed": 1}, "seed = 0"),
        ({"schedule": "plateau"}, "schedule = cosine"),
        ({"pos_weight": [1, 2]}, "pos_weight = None"),
        ({"train": examples(16)}, "images = 24; other training data"),
        ({"train": examples(seed=3)}, "other training data"),
        ({"validation": examples(12, seed=6)}, "other validation data"),
        ({"start": random_model(1, 2)}, "holds another run"),
        ({"frozen": ["1a"]}, "holds another run"),
        ({"pool": "top"}, "options = None"),
    ],
    ids=["seed", "schedule", "weight", "number", "images", "validation", "start", "frozen", "pool"],
)
@pytest.mark.parametrize("epochs", [1, EPOCHS + 1])
def test_folder_of_another_run_is_refused(
    finished: dict[str, Path], options: dict, named: str, epochs: int
) -> None:
    folder = finished["cosine"]
    before = files(folder)
    with pytest.raises(ValueError, match="holds another run") as error:
        fit(folder, epochs, **options)
    assert named in str(error.value) and str(folder) in str(error.value)
    assert files(folder) == before


@pytest.mark.parametrize("network", learners.NETWORKS)
def test_labels_of_the_other_network_are_refused(tmp_path: Path, network: str) -> None:
    train = examples() if "UNet" in network else mask_examples()
    with pytest.raises(ValueError, match=f"{network} needs labels of the shape .*U-Nets from one"):
        fit(tmp_path, 1, train, validation=train, network=network)


def test_unreadable_image_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    error = FileNotFoundError(2, "No image", "a.tif")
    with pytest.raises(OSError) as caught:
        fit(tmp_path, train=in_epoch(1, lambda: error))
    assert caught.value is error


# Checkpoints


class Hostile:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def plant(path: Path) -> None:
    torch.save({"epoch": 2, "state_dict": Hostile(path.parent / "ran")}, path)


DAMAGES = {
    "cut": truncate,
    "text": lambda path: path.write_text("<html>"),
    "code": plant,
    "bare": lambda path: torch.save({"epoch": 2, "state_dict": {}}, path),
}


@pytest.mark.faults
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_checkpoint_is_neither_loaded_nor_continued(
    copied: Path, damage: Callable
) -> None:
    for which in ("best", "last"):
        damage(copied / f"{which}.ckpt")
        with pytest.raises(ValueError, match=rf"{which}\.ckpt is (damaged|no checkpoint)"):
            tr.load(copied, which)
    before = files(copied)
    with pytest.raises(ValueError, match=r"\.ckpt is (damaged|no checkpoint)|another run"):
        fit(copied, EPOCHS + 1)
    assert files(copied) == before and not (copied / "ran").exists()


@pytest.mark.faults
@pytest.mark.parametrize("change", [
    lambda c: c["hyper_parameters"].update(num_classes=3),
    lambda c: c["hyper_parameters"].update(in_channels=3),
    lambda c: c.update(state_dict={"model.fc.weight": torch.ones(2, 2)}),
])  # fmt: skip
def test_checkpoint_of_another_network_is_refused(copied: Path, change: Callable) -> None:
    checkpoint = torch.load(copied / "best.ckpt", weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, copied / "best.ckpt")
    with pytest.raises(ValueError, match=r"best\.ckpt is no checkpoint of MICRA-Net"):
        tr.load(copied)


# Full disks


@pytest.mark.faults
def test_full_disk_is_told_and_loses_nothing(finished: dict[str, Path], tmp_path: Path) -> None:
    fit(tmp_path / "run", 1, schedule="plateau")
    before = files(tmp_path / "run")
    said = r"\.ckpt could not be written and is as before"
    with full_disk(1_000_000), pytest.raises(OSError, match=said):
        fit(tmp_path / "run", schedule="plateau")
    after = files(tmp_path / "run")
    checkpoints = {"last.ckpt", "best.ckpt"}
    assert {name for name in after if not name.startswith(".lock")} == checkpoints
    assert all(after[name] == before[name] for name in checkpoints)
    fit(tmp_path / "run", schedule="plateau")
    assert_same_run(tmp_path / "run", finished["plateau"])
