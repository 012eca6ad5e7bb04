"""How fast are the maps and the masks? python benchmarks/cam.py [--side 256] [--classes 2] ...

Each image shows the first ``--present`` of the classes (by default all): masks are made of these.
(a) computes the maps of all classes, as the published code does, the others those of these only.

Prints, from one run, seconds an image and ratios for
  (a) the published procedure written out plainly: one image at a time, one full backward pass per
      class, maps in NumPy, five randomised PCA fits;
  (b) captum: eight LayerGradCam, then our combination;
  (c) ours;
  (d) the floor: one forward pass and one input-gradient pass per class, nothing else;
  (e) onnxruntime: our maps as an ONNX graph, without its evidence; on CPUs only, in float32.
(a) to (c) and (e) end with the same mask: PCA, Gaussian of 1 px, pixels above the 80th percentile.
"""

import argparse
import datetime
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from captum.attr import LayerGradCam
from onnx.utils import Extractor
from scipy.ndimage import gaussian_filter
from sklearn.decomposition import PCA
from table import report

from micranet_helpers.maps.cam import grad_cam
from micranet_helpers.maps.combination import combine, gaussian
from micranet_helpers.maps.thresholds import percentile
from micranet_helpers.networks.micranet import LAYERS, MICRANet
from micranet_helpers.networks.precision import best_device
from micranet_helpers.zoo.export.maps import maps_graph


def published_maps(model: MICRANet, image: torch.Tensor) -> np.ndarray:
    """Maps (K, 8, S, S) of one image (1, C, S, S), by one backward pass per class."""
    kept = {}
    hooks = [
        model.get_submodule(f"relu{layer}").register_forward_hook(
            lambda module, inputs, output, layer=layer: kept.__setitem__(layer, output)
        )
        for layer in LAYERS
    ]
    logits = model(image)
    for hook in hooks:
        hook.remove()
    for activation in kept.values():
        activation.retain_grad()
    maps = []
    for cls in range(model.num_classes):
        model.zero_grad()
        for activation in kept.values():
            activation.grad = None
        logits[0, cls].backward(retain_graph=True)
        maps.append([_published_map(kept[layer], layer, image.shape[-1]) for layer in LAYERS])
    return np.array(maps)


def _published_map(activation: torch.Tensor, layer: str, side: int) -> np.ndarray:
    gradient = activation.grad[0].float().cpu().numpy()
    cam = np.tensordot(gradient.mean((1, 2)), activation[0].detach().float().cpu().numpy(), 1)
    if layer == "4b":
        cam = np.maximum(cam, 0)
    cam = (cam - cam.min()) / (cam.max() - cam.min() + 1e-12)
    factor = side // len(cam)
    return cam.repeat(factor, 0).repeat(factor, 1)


def published_mask(maps: np.ndarray) -> np.ndarray:
    """Mask (S, S) from the maps (8, S, S) of one class."""
    points, last = maps[:7].reshape(7, -1).T, maps[7]
    fits = [PCA(1, svd_solver="randomized").fit_transform(points) for _ in range(5)]
    score = np.mean(fits, 0).reshape(last.shape)
    if (score * last).sum() < 0:
        score = -score
    score = gaussian_filter(score, 1)
    return score > np.quantile(score, 0.8)


def published(model: MICRANet, images: torch.Tensor, masks: bool, present: int) -> None:
    """(a)"""
    for image in images:
        maps = published_maps(model, image[None])
        if masks:
            [published_mask(of_class) for of_class in maps[:present]]


def our_masks(maps: torch.Tensor) -> torch.Tensor:
    """Masks (B, K, S, S) from maps (B, K, 8, S, S)."""
    return percentile(gaussian(combine(maps), 1.0), 80)


def captum(model: MICRANet, images: torch.Tensor, masks: bool, present: int) -> None:
    """(b)"""
    layers = []
    for layer in LAYERS:
        explainer = LayerGradCam(model, model.get_submodule(f"relu{layer}"))
        of_layer = [explainer.attribute(images, target=c) for c in range(present)]
        cams = torch.cat(of_layer, 1).detach()
        lowest, highest = cams.amin((2, 3), keepdim=True), cams.amax((2, 3), keepdim=True)
        cams = (cams - lowest) / (highest - lowest + 1e-12)
        layers.append(torch.nn.functional.interpolate(cams, images.shape[2:]))
    maps = torch.stack(layers, 2)
    if masks:
        our_masks(maps)


def ours(model: MICRANet, images: torch.Tensor, masks: bool, present: int) -> None:
    """(c)"""
    maps = grad_cam(model, images, range(present)).maps
    if masks:
        our_masks(maps)


def floor(model: MICRANet, images: torch.Tensor, masks: bool, present: int) -> None:
    """(d)"""
    images = images.detach().requires_grad_()
    logits = model(images)
    for cls in range(present):
        torch.autograd.grad(logits[:, cls].sum(), images, retain_graph=True)


def session_of(model: MICRANet) -> onnxruntime.InferenceSession:
    """Open the graph of the maps, with as many threads as torch."""
    graph = Extractor(maps_graph(model)).extract_model(["image"], ["logits", "maps"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # While they wait, its threads are not to slow the other methods.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers)


def in_onnxruntime(
    session: onnxruntime.InferenceSession, _: MICRANet, images: torch.Tensor, masks: bool,
    present: int,
) -> None:  # fmt: skip
    """(e)"""
    [maps] = session.run(["maps"], {"image": images.numpy()})
    if masks:
        our_masks(torch.from_numpy(maps[:, :present]))


def seconds(function: Callable[[], None], device: str) -> float:
    """One timed call, to the end of the GPU's work."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Time all in turn, several rounds, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--present", type=int, help="classes that each image shows (all)")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--save", type=Path, help="write the table to this file, too")
    args = parser.parse_args()
    present = args.present or args.classes
    device = best_device()
    torch.manual_seed(0)
    model = MICRANet(1, args.classes).eval().to(device)
    images = torch.rand(args.batch, 1, args.side, args.side, device=device)

    methods = {"a published": published, "b captum": captum, "c ours": ours, "d floor": floor}
    if device == "cpu":
        methods["e onnxruntime"] = partial(in_onnxruntime, session_of(model))
    times: dict[tuple[str, bool], list[float]] = {}
    with torch.autocast(device, torch.bfloat16, enabled=args.bf16):
        for round_ in range(args.rounds + 1):
            for name, method in methods.items():
                for masks in (False, True):
                    took = seconds(lambda: method(model, images, masks, present), device)  # noqa: B023
                    if round_:  # the first round warms up
                        times.setdefault((name, masks), []).append(took / args.batch)
    medians = {key: statistics.median(values) for key, values in times.items()}
    chip = torch.cuda.get_device_name() if device == "cuda" else f"CPU {platform.machine()}"
    head = (
        f"{datetime.date.today()}, {chip}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, "
        f"{'bf16' if args.bf16 else 'fp32'}: {args.side}² pixels, "
        f"{args.classes} classes, {present} of them present, batch {args.batch}, "
        f"median of {args.rounds} rounds."
    )
    rows = [["", "maps, ms an image", "maps and masks, ms", "times faster than a", "maps / floor"]]
    for name in methods:
        maps, both = medians[name, False], medians[name, True]
        faster, of_floor = medians["a published", True] / both, maps / medians["d floor", False]
        rows.append(
            [name, f"{maps * 1e3:.1f}", f"{both * 1e3:.1f}", f"{faster:.1f}", f"{of_floor:.2f}"]
        )
    report(head, rows, args.save)


if __name__ == "__main__":
    main()
