"""Write networks as model packages of bioimage.io, which ilastik, deepImageJ and others read."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageOps

from micranet_helpers.data.scaling import normalize
from micranet_helpers.files.atomic import named, write_atomically
from micranet_helpers.networks import Network
from micranet_helpers.networks.micranet import LAYERS, MICRANet, check_finite
from micranet_helpers.networks.wrapped import unwrapped
from micranet_helpers.plots.images import on_screen
from micranet_helpers.plots.png import COLOURS, levels, png
from micranet_helpers.zoo.architectures import settings
from micranet_helpers.zoo.export.onnx import graph, outputs, side_step
from micranet_helpers.zoo.export.shared import check_exportable, extra, of_channels
from micranet_helpers.zoo.usage import Usage

CITATION = {
    "text": "Bilodeau et al., Microscopy analysis neural network to solve detection, enumeration "
    "and segmentation from image-level annotations. Nat. Mach. Intell. 4, 455-466 (2022)",
    "doi": "10.1038/s42256-022-00472-w",
}

MEANING = {
    "logits": "A class is predicted where its logit is above 0, unless the card says otherwise.",
    "maps": "Gradient class-activation maps of layers 1a to 4b, along z, each scaled to [0, 1].",
    "evidence": "Logits that each position would give alone: above 0, the class is there.",
}  # at most 128 letters

OWN_SCALE = {"minmax": "scale_range", "standard": "zero_mean_unit_variance"}
"""What bioimage.io calls the ways to scale each image by its own numbers."""

COVER = 256  # side of both halves of the cover, px


def to_bioimageio(
    path: str | Path, model: Network, image: ArrayLike, classes: Sequence[str], *, name: str,
    description: str, authors: Sequence[str], license: str, card: str, tags: Sequence[str] = (),
    usage: Usage | None = None,
) -> None:  # fmt: skip
    """Write a network as a model package of bioimage.io.

    The package is a zip with ``rdf.yaml``, the ONNX graph of :func:`to_onnx` (of a MICRANet with
    maps, whose layers lie along z), the image and the outputs for it as tests, the card as
    ``README.md``, and a cover: the image beside the evidence of the class of highest logit.
    bioimageio.spec validates it, offline, before it is written. There is no ``pytorch_state_dict``,
    as readers would have to run its Python code, and authors are names alone, as the validator
    would look up their accounts. Readers may differ from the test outputs by a thousandth, in maps
    by nine. See https://bioimage.io; Ouyang et al. 2022, doi 10.1101/2022.06.07.495102. Raises
    TypeError or ValueError if the model or the image do not fit, there is no author, or the
    validator refuses the package: the message says why; ImportError, RuntimeError or OSError as for
    :func:`to_onnx`.

    Parameters
    ----------
    path : str or Path
        The file, ``*.zip``; an old one is replaced.
    model : MICRANet, UNet or FalkUNet
        The trained network.
    image : array-like, any real dtype, (C, H, W)
        An image as published, best of the test split and with a predicted class: everyone will see
        it. For a MICRANet at least 16 px wide and high.
    classes, authors, tags : sequence of str
        Names of the classes, who trained it, words to find it by.
    name, description : str
        Name of the model, at least 5 letters, digits, spaces and ``_+-()``; what it does.
    license : str
        Licence of the weights by its SPDX identifier, e.g. ``"MIT"``.
    card : str
        The model card, Markdown: data, metrics, limits. bioimage.io asks for a section
        "Validation".
    usage : Usage, optional
        How the network is to be used, above all how it scales the image; by default not at all.
    """
    path, model = named(path, ".zip"), unwrapped(model)
    check_exportable(model, classes)
    if isinstance(authors, str) or not authors:
        raise ValueError(f"Give a list of one author or more, not {authors!r}.")
    raw = np.asarray(image, np.float32)
    if raw.ndim != 3:
        raise ValueError(f"Image must have the shape (channels, height, width), not {raw.shape}.")
    scale = (0.0, 1.0) if usage is None else usage.scale(np.asarray(image))
    pixels = normalize(raw, *scale)
    images, maps = torch.from_numpy(pixels)[None], isinstance(model, MICRANet)
    check_finite(images)
    found = {key: values.numpy() for key, values in outputs(model, images, maps).items()}
    about = {
        "name": name,
        "description": description,
        "authors": [{"name": author} for author in authors],
        "license": license,
        "tags": list(tags),
        "inputs": [_input(model, *scale, usage)],
        "outputs": [_output(key, classes, values) for key, values in found.items()],
        "config": {
            "bioimageio": {"reproducibility_tolerance": _tolerances(found)},
            "micranet_helpers": {
                "settings": settings(model),
                "version": version("micranet-helpers"),
                **({} if usage is None else {"usage": json.loads(usage.text)}),
            },
        },
    }
    files = {
        "README.md": card.encode(),
        "cover.png": _cover(pixels, found),
        "model.onnx": graph(model, classes, maps=maps, usage=usage),
    }
    write_atomically(path, _package(about, files, {"image": raw[None], **found}))


def _package(
    about: dict[str, Any], files: dict[str, bytes], tensors: dict[str, NDArray[np.float32]]
) -> bytes:
    """Validate a description and its files; pack them."""
    spec, kind = extra("bioimageio.spec"), extra("bioimageio.spec.model.v0_5").ModelDescr
    [opset] = extra("onnx").load_from_string(files["model.onnx"]).opset_import
    content = {
        "type": "model",
        "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
        "format_version": kind.implemented_format_version,
        "documentation": {"source": "README.md"},
        "covers": [{"source": "cover.png"}],
        "cite": [CITATION],
        "weights": {"onnx": {"source": "model.onnx", "opset_version": opset.version}},
        **about,
    }
    # The validator leaves files open, which Windows then does not remove.
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for file, data in files.items():
            Path(folder, file).write_bytes(data)
        for key, array in tensors.items():
            np.save(Path(folder, f"{key}.npy"), array)
        context = spec.ValidationContext(
            root=Path(folder), perform_io_checks=True, log_warnings=False
        )
        with context:
            described = spec.build_description(content, context=context)
            if isinstance(described, spec.InvalidDescr):
                raise ValueError(
                    f"The validator of bioimage.io refuses the package: {_reasons(described)}."
                )
            packed = spec.save_bioimageio_package(described, output_path=Path(folder) / "all.zip")
        return packed.read_bytes()


def _reasons(described: Any) -> str:
    """Say what is wrong, once a field: of a licence it would list all that exist, three times."""
    errors = described.validation_summary.errors[::-1]
    wrong = {str((*error.loc, "tensors")[0]): error.msg for error in errors}
    return "; ".join(f"{field}: {shorten(text, 200)}" for field, text in sorted(wrong.items()))


def _input(
    model: Network, offset: ArrayLike, factor: ArrayLike, usage: Usage | None
) -> dict[str, Any]:
    """Describe the image and what is done to it first."""
    step = side_step(model)
    least = 2 * step if isinstance(model, MICRANet) else step
    rgb = model.in_channels == 3
    channels = list("rgb") if rgb else [f"channel{i}" for i in range(model.in_channels)]
    gain = of_channels(model, factor)
    shift = of_channels(model, -np.asarray(offset, float) * factor)
    scale = {"axis": "channel", "gain": gain, "offset": shift}
    steps = [{"id": "scale_linear", "kwargs": scale}]
    if usage is not None and usage.scaling in OWN_SCALE:
        steps = [{"id": OWN_SCALE[usage.scaling], "kwargs": {"axes": ["y", "x"]}}]
    elif {*gain} == {1} and {*shift} == {0}:
        steps = []
    return {
        "id": "image",
        "description": "The image as published.",
        "axes": [
            {"type": "batch"},
            {"type": "channel", "channel_names": channels},
            *({"type": "space", "id": side, "size": {"min": least, "step": step}} for side in "yx"),
        ],
        "data": {"type": "float32"},
        "preprocessing": steps,
        "test_tensor": {"source": "image.npy"},
    }


def _output(key: str, classes: Sequence[str], array: NDArray) -> dict[str, Any]:
    """Describe an output; its sides, if any, are those of the image."""
    axes = [{"type": "batch"}, {"type": "channel", "channel_names": list(classes)}]
    if key == "maps":
        axes.append({"type": "space", "id": "z", "size": len(LAYERS)})
    if array.ndim > 2:
        sides = [{"id": side, "size": {"tensor_id": "image", "axis_id": side}} for side in "yx"]
        axes += [{"type": "space", **side} for side in sides]
    return {
        "id": key,
        "description": MEANING[key],
        "axes": axes,
        "data": {"type": "float32"},
        "test_tensor": {"source": f"{key}.npy"},
    }


def _tolerances(outputs: dict[str, NDArray[np.float32]]) -> list[dict[str, Any]]:
    """A thousandth of the highest value; for maps, where rounding tips over a max pool, nine.

    The validator takes none for an output that is nowhere above 0: there, readers have a default.
    """
    tolerances = []
    for key, values in outputs.items():
        highest, share = float(values.max()), 9e-3 if key == "maps" else 1e-3
        if highest > 0:
            tolerances.append({"output_ids": [key], "relative_tolerance": share,
                               "absolute_tolerance": share * highest})  # fmt: skip
    return tolerances


def _cover(pixels: NDArray[np.float32], outputs: dict[str, NDArray[np.float32]]) -> bytes:
    """Draw the image beside the evidence (or the logits of the pixels) of the highest class."""
    logits = outputs["logits"][0]
    best = logits.reshape(len(logits), -1).max(1).argmax()
    evidence = outputs.get("evidence", outputs["logits"])[0, best]
    page = Image.new("RGB", (2 * COVER, COVER))
    for place, half in enumerate((on_screen(pixels), COLOURS[levels(evidence)])):
        picture = ImageOps.pad(Image.fromarray(half), (COVER, COVER), Image.Resampling.NEAREST)
        page.paste(picture, (place * COVER, 0))
    return png(np.asarray(page))
