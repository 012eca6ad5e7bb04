"""Publish our own trained networks: a zoo file, and a model card that describes it.

The card is made of the result file of the runs (:mod:`micranet_helpers.lessons.results`) and of the
table of datasets (:mod:`micranet_helpers.data.fetch.registry`). Nothing in it is written by hand.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from pooch import file_hash
from torch import nn

from micranet_helpers import train, zoo
from micranet_helpers.data import ctc, mnist
from micranet_helpers.data.fetch.registry import Item, items
from micranet_helpers.files.atomic import replacing
from micranet_helpers.files.tables import plain
from micranet_helpers.lessons import results
from micranet_helpers.train.checkpoints import read_checkpoint
from micranet_helpers.zoo.usage import Usage, facts

_CELLS = tuple(map(ctc.item_of, ctc.DRAWN))
DATA = {
    "mnist": ("mnist",),
    "ctc": _CELLS,
    "touching": _CELLS,
    "pvivax": ("pvivax",),
    "em": ("em",),
    "actin": (),  # its networks learn from simulated images whatever they are tried on
}
"""Names in the registry of what the networks of each dataset learn from, if its source is
"open"."""

NETWORKS = {
    "MICRANet": ("MICRANet", "says which classes an image shows; masks are made of its maps"),
    "UNet": ("UNet", "gives one logit for each pixel and class"),
    "FalkUNet": ("UNet", "the U-Net of Falk et al.: gives one logit for each pixel and class"),
    "MaskRCNN": ("MaskRCNN", "finds objects one by one, each with its class, box and mask"),
}
"""How the name of a network's group begins, as in the published zoos, and what it does."""


class _Run(NamedTuple):
    """Hold a network and how it was trained."""

    model: nn.Module
    network: str
    facts: dict[str, Any]


def publish_weights(
    result: str | Path, runs: Mapping[str, Sequence[str | Path]], folder: str | Path,
    usages: Mapping[str, Usage] | None = None, half: bool = False, name: str | None = None,
) -> tuple[Path, Path]:  # fmt: skip
    """Write a zoo of trained networks, ``<name>.hdf5``, and its model card, ``<name>.md``.

    ``name`` is by default that of the dataset, ``result`` a file of :func:`results.save` with what
    was measured. ``runs`` gives, by the name of its group in the zoo, the folders of each model's
    runs; several are folds. Names begin with the network as in the published zoos: ``"MICRANet"``,
    ``"UNet-self"``, ``"MaskRCNN-FS"``. ``usages`` say, by group, how a network is to be used;
    ``half`` is as for :func:`micranet_helpers.zoo.hdf5_zoo.save`. Nothing is overwritten, and after
    a failure neither file is there.
    """
    usages = usages or {}
    if not set(usages) <= set(runs):
        raise ValueError(f"There is a usage of {', '.join(usages)}, but only {', '.join(runs)}.")
    record = results.load(result)
    # The zoo from which a chapter has loaded its network, instead of training it.
    loaded = record["parameters"].get("weights", "train")
    if loaded != "train":
        raise ValueError(
            f"The result is of weights from {loaded}, not trained here: choose one of a run whose "
            "networks were, as others' weights are not ours to publish."
        )
    data = data_of(record["dataset"], record["source"], record["parameters"].get("lines"))
    models = {key: [_run(key, Path(run), record) for run in each] for key, each in runs.items()}
    if not models or not all(models.values()):
        raise ValueError("Name at least one model, and the folder of its run.")
    weights, card = (Path(folder) / f"{name or record['dataset']}{end}" for end in (".hdf5", ".md"))
    for path in (weights, card):
        if path.exists():
            raise FileExistsError(f"{path} exists: delete it or choose another folder.")
    try:
        weights.parent.mkdir(parents=True, exist_ok=True)
        with replacing(card) as text, replacing(weights) as part:
            for key, folds in models.items():
                zoo.save(part, key, [fold.model for fold in folds], _params(folds, record),
                         usage=usages.get(key), half=half)  # fmt: skip
            about = {"name": weights.name, "title": weights.stem, "usage": _usage(usages, half)}
            text.write_text(_card(record, data, models, part, about), encoding="utf-8")
    except OSError as error:
        with suppress(OSError):  # it took its place before the card, or is not there
            weights.unlink()
        raise OSError(
            f"{weights} and {card.name} could not be written; make sure that the folder is "
            f"writable and the disk has room ({error})."
        ) from error
    return weights, card


def data_of(dataset: str, source: str, lines: Sequence[str] | None = None) -> list[Item]:
    """List the images that the networks of a result learnt from; none if they were simulated.

    ``lines`` are those of :mod:`micranet_helpers.data.ctc`, if they were not all.
    """
    known = tuple(map(ctc.item_of, lines)) if lines else DATA.get(_family(dataset))
    if known is None or source not in ("simulated", "open"):
        raise ValueError(
            f"The data of the result, {dataset!r} from {source!r}, are not known: give a result of "
            f"{', '.join(DATA)}, simulated or open."
        )
    return [items()[name] for name in known] if source == "open" else []


def _family(dataset: str) -> str:
    # Networks that learnt from masks have results of their own.
    return dataset.removeprefix("baselines-").removeprefix("budget-").removesuffix("-masks")


def _run(name: str, folder: Path, record: Mapping[str, Any]) -> _Run:
    checkpoint = read_checkpoint(folder / "best.ckpt")
    facts = checkpoint["hyper_parameters"]
    network, run = facts.get("network"), facts.get("run")
    if network not in [*NETWORKS] or not isinstance(run, dict):
        raise ValueError(f"{folder} holds no run of {', '.join(NETWORKS)}: give one that does.")
    group, _ = NETWORKS[network]
    if not (name == group or name.startswith(f"{group}-")):
        raise ValueError(f"{folder} holds a {network}: name it {group} or {group}-…, not {name}.")
    if run.get("seed") != record["seed"]:
        raise ValueError(
            f"{folder} has the seed {run.get('seed')}, the result {record['seed']}: give the runs "
            "behind the result."
        )
    left_out = ("in_channels", "num_classes", "run", "channels_last", "network")
    kept = {key: value for key, value in facts.items() if key not in left_out}
    best = {"best_epoch": checkpoint["epoch"] + 1}
    load = train.load
    if network == "MaskRCNN":
        from micranet_helpers.lessons.baselines.mask_rcnn import load  # loads pytorch-lightning
    return _Run(load(folder), network, {**kept, **run, **best})


def _params(folds: Sequence[_Run], record: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the settings of a group: one value of each, or a list of those of the folds."""
    params = dict(record["parameters"])
    for key in folds[0].facts:
        values = [fold.facts.get(key) for fold in folds]
        params[key] = values[0] if all(value == values[0] for value in values) else values
    return params


# --- the model card ----------------------------------------------------------------------------


_CARD = """# Weights: {title}

Networks of the MICRA-Net book, trained by its package `micranet_helpers`: a new implementation
of the method of Bilodeau et al. 2022, doi 10.1038/s42256-022-00472-w. No weights of the original
project are in this file.

| file | `{name}` |
| --- | --- |
| size | {megabytes:.1f} MB |
| sha256 | `{digest}` |
| data | {dataset}, {source} |
| labels that the networks learnt from | {labels_used} |
| seed | {seed} |

## Networks

{networks}

*Parameters* are the learnt numbers of one network; *epoch* is the one that was kept, the best on
validation images; *began with* names the weights before training. Probabilities
from which a class counts as present are not stored, as no run keeps them.

## Load

```python
from micranet_helpers import zoo

for row in zoo.contents("{name}"):
    entry = zoo.load("{name}", row["group"])
    print(row["group"], [type(model).__name__ for model in entry.models], entry.params)
```

{usage}
For more see the chapter `{chapter}`.

## Data

{sources}

## Measured

On {n} images of the split *{split}*, {source}. {notes}

{metrics_table}

{seconds_table}

Parameters of the run: {parameters}.

Measured with: {provenance}.

## Limits

- One run of one seed, {n} test images: other seeds and other images give other numbers.
- The networks know images of one kind. Another microscope, stain, magnification or laboratory
  needs a test of its own before any number is believed.
- For research and teaching, not for diagnosis.

## Licence

The weights are under the MIT licence of the package, as far as they are ours to license.
{terms}
"""


def _card(
    record: Mapping[str, Any], data: Sequence[Item], models: Mapping[str, Sequence[_Run]],
    weights: Path, about: Mapping[str, str],
) -> str:  # fmt: skip
    seconds = ((step, f"{value:.1f}") for step, value in record["seconds"].items())
    return _CARD.format(
        **{key: _words(value) for key, value in record.items()},
        **about,
        megabytes=weights.stat().st_size / 1e6,
        digest=file_hash(weights),
        networks=_networks(models),
        chapter=_family(record["dataset"]),
        sources=_sources(record["dataset"], data),
        metrics_table=results.aside(record, []),
        seconds_table=results.table(("step", "seconds"), seconds),
        terms=_terms(data),
    )


def _words(value: Any) -> str:
    """Write any value of a result in one line, as plain text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(key)} {_words(each)}" for key, each in value.items()) or "none"
    return plain(str(value))


def _networks(models: Mapping[str, Sequence[_Run]]) -> str:
    head = ("group", "network", "fold", "parameters", "training images", "batch", "rate", "epoch",
            "began with")  # fmt: skip
    told = ("images", "batch_size", "learning_rate", "best_epoch")
    rows = [
        (name, fold.network, str(number) if len(folds) > 1 else "–",
         f"{sum(weights.numel() for weights in fold.model.parameters()):,}",
         *(_words(fold.facts.get(key, "–")) for key in told),
         "an earlier run" if "start" in fold.facts else "random numbers")
        for name, folds in models.items()
        for number, fold in enumerate(folds)
    ]  # fmt: skip
    kinds = dict.fromkeys(network for _, network, *_ in rows)
    return "\n".join([results.table(head, rows), "", *(f"- {k}: {NETWORKS[k][1]}." for k in kinds)])


def _usage(usages: Mapping[str, Usage], half: bool) -> str:
    stored = "float16, and float32 once loaded" if half else "float32"
    if not usages:
        return f"Weights are {stored}. Images must be normalised as those of training were."
    rows = [(name, key, value) for name, usage in usages.items() for key, value in facts(usage)]
    return "\n".join([
        f"Weights are {stored}. `entry.usage.scaled(image)` gives what a network sees of an image:",
        "", results.table(("group", "use", "value"), rows), "",
    ])  # fmt: skip


def _sources(dataset: str, data: Sequence[Item]) -> str:
    if _family(dataset) == "mnist" and not data:
        return f"Drawn by this package from handwritten digits, {mnist.BUNDLED}, CC BY 4.0."
    if not data:
        return "Simulated by this package, MIT."
    found = [
        f"- **{item.title}.** {item.citation}. Licence: {item.licence}. "
        f"Source: {', '.join(map(_page, item.urls))}"
        for item in data
    ]
    return "\n".join(["The images are not in this file, only linked:", "", *found])


def _page(url: str) -> str:
    """Link the page of a repository in place of a folder of raw files, which has none."""
    raw = r"https://raw\.githubusercontent\.com/([^/]+/[^/]+)/([^/]+)/"
    return "<" + re.sub(raw, r"https://github.com/\1/tree/\2", url) + ">"


def _terms(data: Sequence[Item]) -> str:
    nameless = [item.name for item in data if item.licence.startswith("none stated")]
    named = dict.fromkeys(item.licence for item in data if item.name not in nameless)
    lines = []
    if named:
        terms = ", ".join(named)
        lines += [f"The data that they learnt from have terms that you must keep: {terms}."]
    if nameless:
        lines += [
            f"**They learnt from data for which no licence is stated: {', '.join(nameless)}.** The",
            "authors keep all rights; ask them before you pass the weights on or build on them.",
        ]
    return "\n".join(lines)
