"""Maps against captum and hand computation; nothing left behind."""

import copy
import gc
import itertools
from collections.abc import Callable

import psutil
import pytest
import torch
from captum.attr import LayerGradCam
from conftest import POOLS, random_images, random_model
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from micranet_helpers.maps import cam
from micranet_helpers.maps.cam import grad_cam
from micranet_helpers.networks.micranet import LAYERS, STRIDES, MICRANet


def enlarged(small: Tensor, stride: int) -> Tensor:
    return small.repeat_interleave(stride, -2).repeat_interleave(stride, -1)


def assert_same_maps(actual: Tensor, expected: Tensor) -> None:
    """Compare up to rounding, relative to the largest value of each map."""
    peak = expected.abs().amax((-2, -1), keepdim=True).clamp(min=1e-30)
    torch.testing.assert_close(actual / peak, expected / peak, rtol=0, atol=1e-4)


# Against oracles


@settings(max_examples=10, deadline=None)
@given(
    st.integers(0, 999), st.sampled_from([1, 3]), st.integers(1, 3), st.integers(1, 4),
    st.integers(1, 4), st.sampled_from(POOLS), st.just(torch.float64),
)  # fmt: skip
@example(1, 1, 3, 3, 5, POOLS[0], torch.float32)
@example(1, 3, 3, 3, 5, POOLS[1], torch.float32)
@example(1, 3, 3, 3, 5, POOLS[2], torch.float32)
def test_maps_and_logits_equal_captum(seed, channels, batch, rows, columns, pool, dtype) -> None:
    """In double precision no rounding decides which of two pixels is the maximum."""
    model = random_model(channels, 2, seed, **pool).to(dtype)
    images = random_images(batch, channels, 8 * rows, 8 * columns, seed=seed).to(dtype)
    cams = grad_cam(model, images, normalize=False)
    assert cams.maps.dtype == cams.logits.dtype == torch.float32
    torch.testing.assert_close(cams.logits, model(images).detach().float())
    for layer, target in itertools.product(range(8), range(2)):
        gradcam = LayerGradCam(model, model.get_submodule(f"relu{LAYERS[layer]}"))
        expected = gradcam.attribute(images, target)[:, 0].detach().float()
        expected = expected.relu() if layer == 7 else expected
        assert_same_maps(cams.maps[:, target, layer], enlarged(expected, STRIDES[layer]))


def hand_made_model(gain: float, weight: float) -> MICRANet:
    """Pass channel 0 on, doubled in 1b; 4b sums its 3×3 neighbourhood, times ``gain``."""
    model = MICRANet(1, 2).eval()
    for name, values in model.state_dict().items():
        is_scale = name.startswith("bnorm") and name.endswith(".weight")
        values.fill_(1 if is_scale else 1 - 1e-5 if name.endswith("running_var") else 0)
    with torch.no_grad():
        for layer in LAYERS[:-1]:
            model.get_submodule(f"conv{layer}").weight[0, 0, 1, 1] = 2 if layer == "1b" else 1
        model.conv4b.weight[0, 0] = gain
        model.linear1.weight[:, 0] = torch.tensor([weight, -weight])
    return model


def test_maps_by_hand() -> None:
    """A positive image of 32×32 whose brightest 8×8 block is not at the border."""
    gain, weight = 0.5, 3.0
    image = 0.1 + random_images(1, 1, 32, 32)
    image[0, 0, 18, 9] = 20.0  # block (2, 1) of the 4×4 blocks of 8 px
    cams = grad_cam(hand_made_model(gain, weight), image, normalize=False)

    blocks = F.max_pool2d(image, 8)[0, 0]
    sums = F.conv2d(blocks[None, None], torch.ones(1, 1, 3, 3), padding=1)[0, 0]
    # The logit: 2 from 1b, gain from 4b, then the largest 3×3 sum.
    logit = weight * 2 * gain * sums.max()
    torch.testing.assert_close(cams.logits, torch.stack([logit, -logit])[None])

    # At 4b the gradient is the weight at one pixel; below, at the nine pixels it sums, times gain;
    # a max pool passes it on, 1b doubles it.
    at_4b, below = weight, 9 * gain * weight
    expected = [
        (below * 2 / 32**2) * image[0, 0],
        (below / 32**2) * 2 * image[0, 0],
        *[(below / 16**2) * 2 * enlarged(F.max_pool2d(image, 2)[0, 0], 2)] * 2,
        *[(below / 8**2) * 2 * enlarged(F.max_pool2d(image, 4)[0, 0], 4)] * 2,
        (below / 4**2) * 2 * enlarged(blocks, 8),
        (at_4b / 4**2) * 2 * gain * enlarged(sums, 8),
    ]
    torch.testing.assert_close(cams.maps[0, 0], torch.stack(expected))
    torch.testing.assert_close(cams.maps[0, 1, :7], -torch.stack(expected[:7]))
    assert not cams.maps[0, 1, 7].any()


# Targets


@pytest.mark.parametrize("targets", [[2], [2, 0], (1, 1, 2), range(2), torch.tensor([2, 1])])
def test_sequence_of_targets_keeps_order_and_repeats(model: MICRANet, targets) -> None:
    images = random_images(3, 1, 16, 16)
    cams, full = grad_cam(model, images, targets), grad_cam(model, images)
    assert_same_maps(cams.maps, full.maps[:, list(targets)])
    assert cams.logits.shape == (3, 3)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=4, max_size=4))
def test_only_marked_pairs_are_filled(model: MICRANet, marked: list[list[bool]]) -> None:
    images, mask = random_images(4, 1, 16, 16), torch.tensor(marked)
    full = grad_cam(model, images)
    for targets in (mask, lambda logits: mask & (logits == full.logits)):
        cams = grad_cam(model, images, targets)
        assert cams.maps.shape == full.maps.shape
        assert not cams.maps[~mask].any()
        assert_same_maps(cams.maps[mask], full.maps[mask])
        torch.testing.assert_close(cams.logits, full.logits)


# Layers


@pytest.mark.parametrize("layers", [["4b"], ("1a",), ("2b", "4a"), ("4b", "1b", "1b"), LAYERS])
def test_only_the_layers_asked_for(model: MICRANet, layers) -> None:
    images, mask = random_images(3, 1, 16, 16), torch.tensor([[True, False, True]] * 3)
    cams, full = grad_cam(model, images, mask, layers=layers), grad_cam(model, images, mask)
    assert cams.maps.shape == (3, 3, len(layers), 16, 16)
    assert_same_maps(cams.maps, full.maps[:, :, [LAYERS.index(layer) for layer in layers]])
    torch.testing.assert_close(cams.logits, full.logits)


@pytest.mark.parametrize("layers", [[], ["5a"], ["4b", "input"], [7]])
def test_layers_that_do_not_exist_are_refused(model: MICRANet, layers) -> None:
    with pytest.raises(ValueError, match="Layers must be among 1a, .*4b, at least one"):
        grad_cam(model, random_images(1, 1, 16, 16), layers=layers)


# Batches and shapes


@pytest.mark.parametrize(
    "targets", [None, [2, 0], torch.arange(15).reshape(5, 3) % 2 > 0, lambda logits: logits > 0]
)
def test_several_passes_equal_one(model, monkeypatch, targets) -> None:
    images = random_images(5, 1, 16, 24)
    whole = grad_cam(model, images, targets)
    monkeypatch.setattr(cam, "PIXELS_PER_PASS", 2 * 16 * 24 + 5)  # two images a pass
    parts = grad_cam(model, images, targets)
    assert_same_maps(parts.maps, whole.maps)
    torch.testing.assert_close(parts.logits, whole.logits)


# Normalisation


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99))
def test_normalised_maps_are_the_raw_ones_scaled_to_0_and_1(seed: int) -> None:
    model, images = random_model(seed=seed), random_images(2, 1, 16, 16, seed=seed)
    raw = grad_cam(model, images, normalize=False).maps
    lowest, highest = raw.amin((-2, -1), keepdim=True), raw.amax((-2, -1), keepdim=True)
    expected = (raw - lowest) / (highest - lowest).clamp(min=1e-30)  # some of 4b are 0
    torch.testing.assert_close(grad_cam(model, images).maps, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("normalize", [True, False])
def test_dead_network_gives_zeros(normalize: bool) -> None:
    model = random_model()
    model.bnorm4b.bias.data.fill_(-1e4)  # nothing gets through the last ReLU
    cams = grad_cam(model, random_images(2, 1, 16, 16), normalize=normalize)
    assert not cams.maps.any()
    torch.testing.assert_close(cams.logits, model.linear1.bias.detach().expand(2, 3))


@pytest.mark.parametrize("value", [0.1, 1.0])
def test_constant_maps_become_zero(value: float) -> None:
    """Kernels of one tap and a constant image: every map is constant but for rounding."""
    model = random_model()
    for layer in LAYERS:
        weight = model.get_submodule(f"conv{layer}").weight.data
        weight *= 3 * F.pad(torch.ones(1, 1), (1, 1, 1, 1))
    images = torch.full((2, 1, 40, 24), value)
    raw = grad_cam(model, images, normalize=False).maps
    assert raw[:, :, :7].abs().amin() > 0
    assert not grad_cam(model, images).maps.any()


# Nothing left behind


def attributes(model: MICRANet) -> list[object]:
    """All that a careless implementation might change."""
    hooks = [
        dict(getattr(module, name))
        for module in model.modules()
        for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    ]
    flags = [module.training for module in model.modules()]
    tensors = [
        (t.requires_grad, t.data_ptr(), t._version, t.detach().numpy().tobytes())
        for t in (*model.parameters(), *model.buffers())
    ]
    grads = [None if p.grad is None else p.grad.clone().tolist() for p in model.parameters()]
    return [hooks, flags, tensors, grads]


@pytest.mark.parametrize("training", [True, False])
def test_model_and_images_are_left_as_they_were(training: bool) -> None:
    model, images = random_model().train(training), random_images(2, 1, 16, 16)
    model.bnorm2a.train(not training)  # a frozen layer keeps its own flag
    model.conv1a.requires_grad_(False)
    model.linear1.weight.grad = torch.ones_like(model.linear1.weight)
    before, pixels = attributes(model), images.clone()
    assert torch.equal(grad_cam(model, images).maps, grad_cam(random_model(), images).maps)
    grad_cam(model, images, torch.tensor([[True, False, False], [False, False, True]]))
    assert attributes(model) == before
    assert torch.equal(images, pixels)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_results_neither_need_nor_have_gradients(model: MICRANet, mode: Callable) -> None:
    images = random_images(2, 1, 16, 16)
    expected = grad_cam(model, images).maps
    with mode():
        cams = grad_cam(model, images.clone().requires_grad_(mode is torch.enable_grad))
        assert torch.is_grad_enabled() == (mode is torch.enable_grad)
    assert torch.equal(cams.maps, expected)
    assert not cams.maps.requires_grad and not cams.logits.requires_grad


@pytest.mark.slow
def test_memory_stays_flat_over_100_calls(model: MICRANet) -> None:
    images = random_images(1, 1, 64, 64)

    def tensors() -> int:
        gc.collect()
        return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())

    for _ in range(10):
        grad_cam(model, images)
    process, count = psutil.Process(), tensors()
    resident = process.memory_info().rss
    for _ in range(100):
        grad_cam(model, images)
    assert tensors() == count
    assert process.memory_info().rss - resident < 30e6


# Precision and devices


def correlation(a: Tensor, b: Tensor) -> Tensor:
    a, b = (x.flatten(-2) - x.flatten(-2).mean(-1, keepdim=True) for x in (a, b))
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))


def test_autocast_stays_close_to_full_precision(model: MICRANet) -> None:
    images = random_images(2, 1, 32, 32)
    expected = grad_cam(model, images)
    with torch.autocast("cpu", torch.bfloat16):
        cams = grad_cam(model, images)
        from_bfloat16 = grad_cam(model, images.bfloat16())
    assert cams.maps.dtype == cams.logits.dtype == torch.float32
    assert not torch.equal(cams.logits, expected.logits)  # autocast was on
    for actual in (cams, from_bfloat16):
        torch.testing.assert_close(actual.logits, expected.logits, rtol=0.05, atol=0.05)
        varied = expected.maps.amax((-2, -1)) > 0
        agreement = correlation(actual.maps, expected.maps)[varied]
        assert agreement.median() > 0.98 and agreement.min() > 0.8


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_agrees_with_cpu(model: MICRANet) -> None:
    images, mask = random_images(3, 1, 32, 40), torch.tensor([[True, False, True]] * 3)
    expected = grad_cam(model, images, mask)
    on_gpu = copy.deepcopy(model).cuda()
    for targets in (mask, mask.cuda(), lambda logits: mask.to(logits.device)):
        cams = grad_cam(on_gpu, images.cuda(), targets)
        assert cams.maps.is_cuda and cams.logits.is_cuda
        torch.testing.assert_close(cams.maps.cpu(), expected.maps, rtol=0, atol=1e-2)
        torch.testing.assert_close(cams.logits.cpu(), expected.logits, rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_memory_stays_flat(model: MICRANet) -> None:
    on_gpu, images = copy.deepcopy(model).cuda(), random_images(4, 1, 64, 64).cuda()
    grad_cam(on_gpu, images)
    allocated = torch.cuda.memory_allocated()
    for _ in range(100):
        grad_cam(on_gpu, images)
    assert torch.cuda.memory_allocated() == allocated


# Refusals


@pytest.mark.parametrize(
    "targets",
    [[3], [-1], [0, 3], torch.tensor([7]), [], [0.7], [True, False, True], torch.tensor([0.7])],
    ids=str,
)
def test_targets_that_do_not_exist_are_refused(model: MICRANet, targets) -> None:
    with pytest.raises(ValueError, match="class ids from 0 to 2, at least one"):
        grad_cam(model, random_images(2, 1, 16, 16), targets)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.uint8, torch.int64])
@pytest.mark.parametrize("shape", [(3, 2), (2, 4), (1, 3), (2, 3, 1), (2, 3)])
def test_masks_that_do_not_fit_are_refused(model: MICRANet, shape: tuple, dtype) -> None:
    if (shape, dtype) == ((2, 3), torch.bool):
        return  # the only right one
    mask = torch.ones(shape, dtype=dtype)
    for targets in (mask, lambda _: mask):
        with pytest.raises(ValueError, match=r"must be bool .*\(batch, classes\) = \(2, 3\)"):
            grad_cam(model, random_images(2, 1, 16, 16), targets)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.ones(1, 1, 16, 16).double(), TypeError, "float64.*float32"),
        (torch.ones(1, 1, 20, 16), ValueError, "multiples of 8"),
        (torch.tensor([0, torch.nan]).expand(1, 1, 16, 2).repeat(1, 1, 1, 8), ValueError, "NaN"),
        (torch.full((2, 1, 16, 16), -torch.inf), ValueError, "NaN or infinite"),
    ],
)
def test_images_that_do_not_fit_are_refused(model, images, error, message) -> None:
    with pytest.raises(error, match=message):
        grad_cam(model, images)
