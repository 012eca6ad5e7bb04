"""Published weights are those of the runs, and the card says what the files say."""

import contextlib
import hashlib
import io
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import random_images
from torch.utils.data import TensorDataset

from micranet_helpers import train, zoo
from micranet_helpers.data.fetch.registry import items
from micranet_helpers.lessons import command, model_card, results
from micranet_helpers.lessons.model_card import publish_weights
from micranet_helpers.networks import mask_rcnn
from micranet_helpers.networks.micranet import MICRANet
from micranet_helpers.train import learner
from micranet_helpers.train.checkpoints import read_checkpoint

BOOK = Path(__file__).parents[1] / "book"
RECORD = {
    "dataset": "em", "source": "open", "split": "testing", "n": 2, "seed": 3,
    "labels_used": "image-level labels of crops", "metrics": {"pixel F1": 0.75},
    "seconds": {"training": 12.34}, "notes": "only a test", "parameters": {"side": 16},
}  # fmt: skip


def fit(folder, network="MICRANet", **options):
    labels = torch.tensor([1.0, 0, 1, 0])[:, None]
    if network == "UNet":
        labels = labels[..., None, None].expand(4, 1, 16, 16)
    data = TensorDataset(random_images(4, 1, 16, 16), labels)
    train.fit(data, data, folder, 1, batch_size=2, network=network, precision="32-true", **options)
    return folder


def change_run(source, folder, change):
    """A copy of a run with other checkpoints."""
    shutil.copytree(source, folder)
    for path in folder.glob("*.ckpt"):
        checkpoint = read_checkpoint(path)
        change(checkpoint)
        torch.save(checkpoint, path)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of seed 3: a classifier, folds that start from it, a U-Net, another classifier."""
    folder = tmp_path_factory.mktemp("runs")
    made = {"classifier": fit(folder / "classifier", seed=3)}
    start = train.load(made["classifier"])
    made["fold"] = fit(folder / "fold", seed=3, start=start, frozen=("1a",), learning_rate=1e-4)
    made["unet"] = fit(folder / "unet", "UNet", seed=3)
    two = {f"model.{key}": value for key, value in MICRANet(1, 2).state_dict().items()}
    made["two classes"] = change_run(
        made["classifier"], folder / "two",
        lambda c: c.update(state_dict=two) or c["hyper_parameters"].update(num_classes=2),
    )
    made["seed 4"] = change_run(
        made["classifier"], folder / "four", lambda c: c["hyper_parameters"]["run"].update(seed=4)
    )
    made["VGG"] = change_run(
        made["classifier"], folder / "vgg", lambda c: c["hyper_parameters"].update(network="VGG")
    )
    return made


@pytest.fixture
def result(tmp_path):
    def write(**changed):
        return results.save(tmp_path / "result.json", **RECORD | changed)

    return write


def card_of(*args):
    return publish_weights(*args)[1].read_text(encoding="utf-8")


def test_zoo_holds_the_networks_of_the_runs(tmp_path, runs, result):
    folder = tmp_path / "new" / "out"
    models = {"MICRANet": [runs["classifier"]], "UNet-self": [runs["unet"]],
              "MICRANet-finetuned": [runs["classifier"], runs["fold"]]}  # fmt: skip
    weights, card = publish_weights(result(), models, folder)
    assert (weights, card) == (folder / "em.hdf5", folder / "em.md")
    assert sorted(os.listdir(folder)) == ["em.hdf5", "em.md"]
    for name, folders in models.items():
        entry = zoo.load(weights, name)
        assert entry.class_thresholds is None
        for model, run in zip(entry.models, folders, strict=True):
            state, expected = model.state_dict(), train.load(run).state_dict()
            assert all(torch.equal(state[key], value) for key, value in expected.items())
    params = zoo.load(weights, "MICRANet").params
    told = {"side": 16, "seed": 3, "batch_size": 2, "images": 4, "learning_rate": 1e-3}
    assert told.items() <= params.items() and params["best_epoch"] == 1
    folds = zoo.load(weights, "MICRANet-finetuned").params
    assert folds["learning_rate"] == [1e-3, 1e-4] and folds["images"] == 4


def test_card_says_what_result_registry_and_file_say(tmp_path, runs, result):
    path = result()
    models = {"MICRANet": [runs["classifier"]], "MICRANet-finetuned": [runs["fold"]]}
    weights, card = publish_weights(path, models, tmp_path / "out")
    text, made = card.read_text(encoding="utf-8"), results.load(path)["provenance"]
    item = items()["em"]
    for words in (
        f"`{hashlib.sha256(weights.read_bytes()).hexdigest()}`",
        f"{weights.stat().st_size / 1e6:.1f} MB", "`em.hdf5`",
        "image-level labels of crops", "| seed | 3 |", "only a test", "On 2 images of the split",
        "| pixel F1 | 0.750 |", "| training | 12.3 |", "side 16",
        item.title, item.citation, f"Licence: {item.licence}",
        "<https://github.com/unidesigner/groundtruth-drosophila-vnc/tree/4a5f0514",
        f"commit {made['commit']}", made["device"], f"torch {made['versions']['torch']}",
        "| MICRANet | MICRANet | – | 1,173,857 | 4 | 2 | 0.001 | 1 | random numbers |",
        "| MICRANet-finetuned | MICRANet | – | 1,173,857 | 4 | 2 | 0.0001 | 1 | an earlier run |",
        "masks are made of its maps", "are not stored",
        "terms that you must keep: CC BY-NC-SA 3.0",
    ):  # fmt: skip
        assert words in text, words
    assert "no licence is stated" not in text


def test_card_states_how_the_networks_are_to_be_used(tmp_path, runs, result):
    usage = zoo.Usage(("axon",), "range", (50,), (0.01,), object_px=24, levels=(0.5,))
    paths = result(), {"MICRANet": [runs["classifier"]]}, tmp_path / "out"
    weights, card = publish_weights(*paths, {"MICRANet": usage}, half=True)
    assert zoo.load(weights, "MICRANet").usage == usage
    text = card.read_text(encoding="utf-8")
    assert "| MICRANet | levels | 0.5 |" in text and "Weights are float16" in text
    with pytest.raises(ValueError, match="usage of UNet, but only MICRANet"):
        publish_weights(*paths, {"UNet": usage})


def test_code_of_the_card_works_beside_the_zoo(tmp_path, runs, result):
    text = card_of(result(), {"UNet": [runs["unet"]]}, tmp_path / "out")
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    with contextlib.chdir(tmp_path / "out"), contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code, {})
    assert out.getvalue().startswith("UNet ['UNet'] {")


@pytest.mark.parametrize(
    ("dataset", "source", "said", "not_said"),
    [
        ("em", "simulated", "Simulated by this package, MIT.", "terms that you must"),
        ("actin", "open", "Simulated by this package, MIT.", "TA-GAN"),
        ("mnist", "simulated", "bundled with scikit-learn, CC BY 4.0", "MNIST"),
        ("mnist", "open", "no licence is stated: mnist.**", "terms that you must"),
        ("pvivax", "open", "no licence is stated: pvivax.**", "terms that you must"),
        ("ctc", "open", "must keep: Cell Tracking Challenge terms of use, MIT.", "no licence is"),
        ("baselines-em", "open", "see the chapter `em`", "baselines-em`."),
    ],
)
def test_terms_of_the_data_are_plain(tmp_path, runs, result, dataset, source, said, not_said):
    path = result(dataset=dataset, source=source)
    text = card_of(path, {"MICRANet": [runs["classifier"]]}, tmp_path / "out")
    assert said in text and not_said not in text
    assert (tmp_path / "out" / f"{dataset}.md").is_file()


def test_every_full_run_of_the_book_can_be_published():
    for path in (BOOK / "results" / "full").glob("*.json"):
        run = results.load(path)
        assert isinstance(model_card.data_of(run["dataset"], run["source"]), list)
    assert {name for names in model_card.DATA.values() for name in names} <= items().keys()
    assert model_card.NETWORKS.keys() == {*learner.NETWORKS, "MaskRCNN"}


@pytest.mark.slow
def test_a_mask_rcnn_is_published(tmp_path, result):
    model = mask_rcnn.build(1, 2, 64)
    checkpoint = {
        "hyper_parameters": {"in_channels": 1, "num_classes": 2, "crop": 64, "network": "MaskRCNN",
                             "learning_rate": 1e-4, "run": {"seed": 3, "images": 9}},
        "state_dict": {f"model.{key}": value for key, value in model.state_dict().items()},
        "epoch": 0,
    }  # fmt: skip
    torch.save(checkpoint, tmp_path / "best.ckpt")
    weights, card = publish_weights(result(), {"MaskRCNN-FS": [tmp_path]}, tmp_path / "out")
    assert "finds objects one by one" in card.read_text(encoding="utf-8")
    entry = zoo.load(weights, "MaskRCNN-FS")
    bias = "roi_heads.box_predictor.cls_score.bias"
    assert torch.equal(entry.models[0].state_dict()[bias], model.state_dict()[bias])
    assert (entry.params["num_classes"], entry.params["min_size"]) == (3, 64)


# --- what is refused ---------------------------------------------------------------------------


def refused(tmp_path, result, models, error, message):
    with pytest.raises(error, match=message) as caught:
        publish_weights(result, models, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").glob("*"))


NAMED = "holds a MICRANet: name it MICRANet or MICRANet-…, not UNet"
REFUSED = {
    "no run": ({"MICRANet": []}, {}, "at least one model"),
    "name": ({"UNet": ["classifier"]}, {}, NAMED),
    "seed": ({"MICRANet": ["seed 4"]}, {}, "has the seed 4, the result 3"),
    "kinds": ({"MICRANet": ["classifier", "two classes"]}, {}, "networks of one kind"),
    "network": ({"MICRANet": ["VGG"]}, {}, "holds no run of MICRANet, UNet|is no checkpoint of"),
    "data": ({"MICRANet": ["classifier"]}, {"dataset": "bees"},
             "'bees' from 'open', are not known: give a result of mnist, ctc"),
    "weights": ({"MICRANet": ["classifier"]}, {"parameters": {"weights": "EMModelZoo.hdf5"}},
                "weights from EMModelZoo.hdf5, not trai"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_runs_and_results_that_do_not_fit_are_refused(tmp_path, runs, result, case):
    models, changed, message = REFUSED[case]
    models = {name: [runs[run] for run in folders] for name, folders in models.items()}
    refused(tmp_path, result(**changed), models, ValueError, message)


@pytest.mark.parametrize("name", ["em.hdf5", "em.md"])
def test_nothing_is_overwritten(tmp_path, runs, result, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(FileExistsError, match=f"{name} exists: delete it or choose another"):
        publish_weights(result(), {"MICRANet": [runs["classifier"]]}, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == [name]
    assert (tmp_path / "out" / name).read_text() == "mine"


@pytest.mark.parametrize("suffix", [".part", ".hdf5", ".md"])
def test_a_full_disk_leaves_neither_file(tmp_path, runs, result, monkeypatch, suffix):
    """In a group of the zoo, the zoo itself or the card."""
    path, replace = result(), os.replace

    def fail(source, target):
        if str(target).endswith(suffix):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    models = {"MICRANet": [runs["classifier"]], "UNet": [runs["unet"]]}
    refused(tmp_path, path, models, OSError, "em.md could not be written.*No space left")


# --- the command -------------------------------------------------------------------------------


def call(*words):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = command.main(["publish-weights", *map(str, words)])
    return code, out.getvalue(), err.getvalue()


def test_command_works_outside_a_clone(tmp_path, runs, result, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folds = f"MICRANet-finetuned={runs['classifier']},{runs['fold']}"
    words = "--model", f"UNet={runs['unet']}", "--model", folds, "--out", "out"
    code, out, err = call(result(), *words)
    assert (code, out.split(), err) == (0, ["out/em.hdf5", "out/em.md"], "")
    rows = {row["group"]: row["folds"] for row in zoo.contents("out/em.hdf5")}
    assert rows == {"UNet": 1, "MICRANet-finetuned": 2}


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (["MICRANet"], "cannot read --model MICRANet; write --model name=run"),
        (["UNet=a", "UNet=b"], "two models are named UNet"),
        (["UNet=nowhere"], "no checkpoint nowhere/best.ckpt"),
    ],
)
def test_bad_usage_is_one_sentence(tmp_path, result, monkeypatch, models, message):
    monkeypatch.chdir(tmp_path)
    words = [word for model in models for word in ("--model", model)]
    code, out, err = call(result(), *words, "--out", "out")
    assert (code, out) == (2, "") and message in err and len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_failed_write_is_no_bad_usage(tmp_path, runs, result):
    (tmp_path / "out").write_text("a file")
    model = f"MICRANet={runs['classifier']}"
    code, _, err = call(result(), "--model", model, "--out", tmp_path / "out" / "in")
    assert code == 1 and "could not be written" in err
