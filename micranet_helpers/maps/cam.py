"""Compute class-activation maps and evidence, of many images and classes at once.

The network is a chain of convolutions, so its gradient is written out. Unlike with automatic
differentiation, only the (image, class) pairs asked for go backwards, the layers below 1b need no
backward convolution, and nothing of the model (hooks, flags, ``.grad``) is touched.
"""

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from micranet_helpers.networks.micranet import (
    LAYERS,
    STRIDES,
    MICRANet,
    check_evaluating,
    check_finite,
    check_images,
)
from micranet_helpers.networks.wrapped import classifier

Targets = Sequence[int] | Tensor | Callable[[Tensor], Tensor] | None

Weights = list[tuple[Tensor, Tensor]]  # weight and bias of each layer

# Image pixels per pass on a CPU. The largest buffer is then 8 MB: glibc gives buffers over 32 MB
# back to the system at once, and asking for them again took up to half of the time
# (benchmarks/memory.py). A GPU takes 16 times as much.
PIXELS_PER_PASS = 256 * 256


class Cams(NamedTuple):
    """Hold what :func:`grad_cam` returns.

    Attributes
    ----------
    maps : Tensor, float32, (B, K, 8, H, W)
        One map per image, class and layer, in the order 1a … 4b (or the layers asked for).
    logits : Tensor, float32, (B, num_classes)
        Logits of every class, in evaluation mode.
    """

    maps: Tensor
    logits: Tensor


@torch.no_grad()
def grad_cam(
    model: MICRANet,
    images: Tensor,
    targets: Targets = None,
    normalize: bool = True,
    layers: Sequence[str] = LAYERS,
) -> Cams:
    r"""Compute the gradient class-activation maps of all eight layers.

    For layer l with activations A (after the ReLU) and the logit y of a class,

    .. math:: M_l = \sum_k \alpha_k A^k, \qquad
              \alpha_k = \frac{1}{hw} \sum_{ij} \frac{\partial y}{\partial A^k_{ij}}.

    Maps keep their sign, except 4b, which is cut at 0. They are enlarged by repeating pixels.
    The model is read in evaluation mode whatever its flag says, and left as it was.

    Parameters
    ----------
    model : MICRANet
        The classifier, perhaps compiled or made parallel.
    images : Tensor, float, (B, C, H, W)
        Finite values; H and W multiples of 8.
    targets : optional
        Classes to explain: ``None`` for all, or a sequence of K class ids. With a bool mask
        (B, num_classes), or a function from logits to one such as ``lambda logits: logits > 0``,
        only the marked pairs are computed, and the other maps are 0 (K = num_classes).
    normalize : bool
        Scale each map to [0, 1] by its own minimum and maximum; a constant map becomes 0.
    layers : sequence of str
        Maps to compute, e.g. ``("4b",)``. The backward pass stops at the lowest one.

    Returns
    -------
    Cams
        Maps (B, K, len(layers), H, W) and logits.

    Raises
    ------
    TypeError, ValueError
        If the images do not fit the model, hold NaN or infinity, or a target does not exist.

    References
    ----------
    Grad-CAM: Selvaraju et al. 2017, doi 10.1109/ICCV.2017.74. All layers of one classifier:
    Bilodeau et al. 2022, doi 10.1038/s42256-022-00472-w.

    Examples
    --------
    >>> cams = grad_cam(MICRANet(1, 2), torch.rand(3, 1, 64, 64))
    >>> cams.maps.shape, cams.logits.shape
    (torch.Size([3, 2, 8, 64, 64]), torch.Size([3, 2]))
    """
    model = classifier(model)
    check_images(images, model)
    check_finite(images)
    if not layers or not set(layers) <= set(LAYERS):
        raise ValueError(f"Layers must be among {', '.join(LAYERS)}, at least one, not {layers}.")
    wanted = [LAYERS.index(layer) for layer in layers]
    ids, mask = _check_targets(targets, images, model)
    weights = _fused_weights(model)
    pixels = PIXELS_PER_PASS if images.device.type == "cpu" else 16 * PIXELS_PER_PASS
    size = max(1, pixels // images[0, 0].numel())
    passes = []
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        marks = mask[part] if isinstance(mask, Tensor) else mask
        passes.append(_one_pass(model, weights, images[part], ids, marks, normalize, wanted))
    return Cams(*(torch.cat(tensors) for tensors in zip(*passes, strict=True)))


def _check_targets(targets: Targets, images: Tensor, model: MICRANet) -> tuple[Tensor, Targets]:
    """Find the class id of each of the K columns, and which of the (B, K) maps are wanted."""
    classes = model.num_classes
    if targets is None or callable(targets):
        return torch.arange(classes, device=images.device), targets
    if isinstance(targets, Tensor) and (targets.dtype == torch.bool or targets.ndim != 1):
        _check_mask(targets, len(images), classes)
        return torch.arange(classes, device=images.device), targets.to(images.device)
    ids = targets.tolist() if isinstance(targets, Tensor) else list(targets)
    whole = all(isinstance(i, Integral) and not isinstance(i, bool) for i in ids)
    if not ids or not whole or min(ids) < 0 or max(ids) >= classes:
        raise ValueError(
            f"Targets must be class ids from 0 to {classes - 1}, at least one, not {ids}."
        )
    return torch.tensor([int(i) for i in ids], device=images.device), None


def _check_mask(mask: Tensor, batch: int, num_classes: int) -> None:
    if mask.dtype != torch.bool or mask.shape != (batch, num_classes):
        raise ValueError(
            f"The target mask must be bool of shape (batch, classes) = {(batch, num_classes)}, "
            f"not {mask.dtype} of shape {tuple(mask.shape)}."
        )


def _fused_weights(model: MICRANet) -> Weights:
    """Fold each batch norm into its convolution: [(weight, bias), …], exact in evaluation mode."""
    fused = []
    for layer in LAYERS:
        conv, norm = model.get_submodule(f"conv{layer}"), model.get_submodule(f"bnorm{layer}")
        moments = norm.running_mean, norm.running_var, norm.eps
        weight, bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, *moments, norm.weight, norm.bias
        )
        fused.append((weight.contiguous(memory_format=torch.channels_last), bias))
    return fused


class _Trace(NamedTuple):
    """Hold what the backward pass needs of the forward one."""

    inputs: list[Tensor]  # of each convolution
    activations: list[Tensor]  # of each layer, after the ReLU
    switches: dict[int, Tensor]  # layer -> pixels that the max pool before it took


def _forward(images: Tensor, weights: Weights) -> _Trace:
    x = images.contiguous(memory_format=torch.channels_last)
    trace = _Trace([], [], {})
    for layer, (weight, bias) in enumerate(weights):
        if STRIDES[layer] != STRIDES[max(layer - 1, 0)]:
            x, trace.switches[layer] = F.max_pool2d(x, 2, return_indices=True)
        trace.inputs.append(x)
        x = F.conv2d(x, weight, bias, padding=1).relu_()
        trace.activations.append(x)
    return trace


def _one_pass(
    model: MICRANet, weights: Weights, images: Tensor, ids: Tensor, mask: Targets, normalize: bool,
    layers: list[int],
) -> Cams:  # fmt: skip
    """Compute maps and logits of a few images: forward once, back once for all marked pairs."""
    trace = _forward(images, weights)
    logits = model.pooled(trace.activations[-1]).float()
    if callable(mask):
        mask = mask(logits)
        _check_mask(mask, *logits.shape)
    shape = len(logits), len(ids)
    image, column = (ids.new_ones(shape) if mask is None else mask).nonzero(as_tuple=True)
    maps = logits.new_zeros((*shape, len(layers), *images.shape[2:]))
    if len(image):
        grad = _of_pool(model, trace.activations[-1], image, ids[column])
        alphas = _alphas(grad, image, trace, weights, min(layers))
        for place, layer in enumerate(layers):
            dense = alphas[layer].new_zeros((*shape, alphas[layer].shape[1]))
            dense[image, column] = alphas[layer]
            maps[:, :, place] = _map(dense, trace.activations[layer], layer, normalize)
    return Cams(maps, logits)


def _of_pool(model: MICRANet, activations: Tensor, image: Tensor, ids: Tensor) -> Tensor:
    """Differentiate the logits of P pairs by layer 4b, after its ReLU: (P, 256, h, w)."""
    with torch.inference_mode(False), torch.enable_grad():
        copies, ids = activations[image].requires_grad_(), ids.clone()
        logits = model.pooled(copies).gather(1, ids[:, None])
        return torch.autograd.grad(logits.sum(), copies)[0]


def _alphas(
    grad: Tensor, image: Tensor, trace: _Trace, weights: Weights, lowest: int
) -> dict[int, Tensor]:
    """Average the gradient of each channel of the layers from ``lowest`` up: (P, C) for P pairs.

    ``grad`` is the gradient at layer 4b, ``image`` (P,) the image of each pair.
    """
    top = len(LAYERS) - 1
    alphas = {top: grad.mean((2, 3), dtype=torch.float32)}
    grad = grad * (trace.activations[top] > 0)[image]
    grad = grad.contiguous(memory_format=torch.channels_last)
    for layer in range(top, max(lowest, 1), -1):
        # From before the ReLU of this layer to after the ReLU of the layer below.
        grad = _transposed(grad, weights[layer][0])
        pixels = trace.activations[layer - 1][0, 0].numel()
        alphas[layer - 1] = grad.sum((2, 3), dtype=torch.float32) / pixels
        grad = torch.where((trace.inputs[layer] > 0)[image], grad, 0)
        if layer in trace.switches:
            grad = F.max_unpool2d(grad, trace.switches[layer][image], 2)
    if lowest == 0:
        alphas[0] = _mean_transposed(grad, weights[1][0])
    return alphas


def _transposed(grad: Tensor, weight: Tensor) -> Tensor:
    """Compute ``conv_transpose2d(grad, weight, padding=1)`` as a convolution, faster on CPUs."""
    back = weight.flip(2, 3).transpose(0, 1).contiguous(memory_format=torch.channels_last)
    return F.conv2d(grad, back, padding=1)


def _mean_transposed(grad: Tensor, weight: Tensor) -> Tensor:
    """Average ``conv_transpose2d(grad, weight, padding=1)`` over pixels, without computing it.

    Each of the nine kernel positions sees ``grad`` shifted by one pixel at most, so its sum is
    the total less the row or the column that the shift pushes over the border.
    """
    total = grad.sum((2, 3), dtype=torch.float32)[..., None, None]
    ends = grad[:, :, [0, -1]]
    rows = F.pad(ends.sum(3, dtype=torch.float32)[..., None], (0, 0, 0, 1))[:, :, [0, 2, 1]]
    columns = grad[..., [0, -1]].sum(2, dtype=torch.float32)
    columns = F.pad(columns[:, :, None], (0, 1))[..., [0, 2, 1]]
    corners = F.pad(ends[..., [0, -1]].float(), (0, 1, 0, 1))[:, :, [0, 2, 1]][..., [0, 2, 1]]
    sums = total - rows - columns + corners
    return torch.einsum("pkij,kcij->pc", sums, weight.float()) / grad[0, 0].numel()


def _map(alpha: Tensor, activation: Tensor, layer: int, normalize: bool) -> Tensor:
    """Add up a layer's weighted channels and enlarge the sum to the image: (B, K, H, W)."""
    cam = torch.einsum("bkc,bchw->bkhw", alpha.to(activation.dtype), activation).float()
    if layer == len(LAYERS) - 1:
        cam = cam.relu()
    if normalize:
        lowest, highest = cam.amin((2, 3), keepdim=True), cam.amax((2, 3), keepdim=True)
        span = highest - lowest
        # A range within rounding is that of a constant map.
        varies = span > 1e-5 * torch.maximum(highest.abs(), lowest.abs())
        cam = torch.where(varies, (cam - lowest) / (span + 1e-12), 0)
    return F.interpolate(cam, scale_factor=STRIDES[layer], mode="nearest")


MARGIN = 40
"""Reach of the network around a position, px, rounded up to a multiple of 8."""

STEP = 4
"""Distance of the positions of evidence, px."""

BELOW = LAYERS[:6]
"""The layers before the last max pool, in steps of 4 px; those after it are in steps of 8."""


@torch.no_grad()
def evidence(model: MICRANet, images: Tensor, step: int = STEP) -> Tensor:
    r"""Compute the logits that each position would give alone.

    Map 4b without its cut at 0, in the unit of the logits: with the activations A of layer 4b,
    weights w and bias b of the linear layer,

    .. math:: E_c = b_c + \sum_k w_{ck} A^k.

    A crop that holds one position only would have the logit E. Above 0 that is a "yes" of a
    classifier that pools logits ("top", "lse"). One that pools channels sums over several
    positions, so that even crops of which it says "no" hold positions above 0: take a threshold
    of :func:`~micranet_helpers.maps.thresholds.from_labels`.

    Evidence depends on the surroundings (34 px), not on the size of the image, and needs no
    backward pass. The network sees an image in steps of 8 px. In steps of 4 px, the last max pool
    starts at each of its two rows and columns (shift and stitch, Sermanet et al. 2014,
    arXiv 1312.6229), and evidence is the mean of the four positions that cover a pixel.

    Parameters
    ----------
    model : MICRANet
        The classifier, in evaluation mode.
    images : Tensor, float, (B, C, H, W)
        Finite values; H and W multiples of 8, at least 16.
    step : int
        Distance of the positions, 4 or 8 px.

    Returns
    -------
    Tensor, float32, (B, K, H, W)
        Unbounded.

    Raises
    ------
    TypeError, ValueError
        If the images do not fit the model, hold NaN or infinity or are too small, the model is in
        training mode, or the step is neither 4 nor 8.

    References
    ----------
    Zhou et al. 2016 (class activation maps), doi 10.1109/CVPR.2016.319. Where it exceeds b, and
    off the far borders, evidence in steps of 8 equals b plus H·W / 64 times map 4b of
    :func:`grad_cam`.
    """
    model = classifier(model)
    check_images(images, model)
    check_evaluating(model)
    if min(images.shape[2:]) < 16:
        height, width = images.shape[2:]
        raise ValueError(f"Images must be at least 16 px, not {height}×{width}: pad them.")
    check_finite(images)
    if step not in (4, 8):
        raise ValueError(f"Evidence is computed in steps of 4 or 8 px, not {step}.")
    # One image at a time stays in a processor's cache.
    parts = images.split(len(images) if images.is_cuda else 1)
    return torch.cat([_averaged(model, part, step) for part in parts])


def _averaged(model: MICRANet, images: Tensor, step: int) -> Tensor:
    height, width = images.shape[2:]
    near = STRIDES[-1] - step  # px that are mirrored before the image
    around = F.pad(images, (near, near + 8, near, near + 8), mode="reflect")
    below = _activations(model, around, BELOW)
    total, starts = 0, range(8 // step)
    for down in starts:
        for right in starts:
            part = below[..., down:, right:][..., : height // 4 + 2, : width // 4 + 2]
            coarse = _positions(model, _activations(model, part, LAYERS[len(BELOW) :]))
            fine = F.interpolate(coarse, scale_factor=STRIDES[-1], mode="nearest")
            top, left = near - 4 * down, near - 4 * right
            total = total + fine[..., top : top + height, left : left + width]
    return total / len(starts) ** 2


def presence(model: MICRANet, images: Tensor) -> Tensor:
    """Compute logits (B, K) of images: the model's; after a pool of logits, the highest position's.

    The pool itself depends on how much of a large image the objects cover.
    """
    model = classifier(model)
    if model.pool == "channel":
        return model(images).float()
    return _positions(model, _activations(model, images)).amax((2, 3))


def _activations(model: MICRANet, x: Tensor, layers: Sequence[str] = LAYERS) -> Tensor:
    return model.features(x.contiguous(memory_format=torch.channels_last), layers).float()


def _positions(model: MICRANet, activations: Tensor) -> Tensor:
    with torch.autocast(activations.device.type, enabled=False):  # logits keep all their digits
        return model.positions(activations)
