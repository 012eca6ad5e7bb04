"""Canvases as datasets: numbered digits agree with the truth; no digit is in two splits."""

from pathlib import Path

import drawn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micranet_helpers.data import dataset, digits, mnist


@settings(max_examples=5)
@given(st.integers(0, 10**6), st.integers(1, 4), st.sampled_from([32, 64, 128]))
@pytest.mark.slow
def test_labels_number_the_digits(seed: int, n: int, size: int) -> None:
    for sample in mnist.simulate(n, size, seed):
        assert sample.image.shape == (1, size, size) and sample.image.dtype == np.uint16
        assert sample.label.shape == (10, size, size) and sample.label.dtype == np.uint16
        for plane in sample.label:
            numbers = np.unique(plane)
            assert numbers.tolist() == list(range(len(numbers)))
        assert (np.count_nonzero(sample.label, 0) <= 1).all()
        # Ink is bright, the ground is dark.
        ink = sample.label.any(0)
        if ink.any():
            assert sample.pixels[0][ink].mean() > sample.pixels[0][~ink].mean() + 0.2


def test_no_digit_is_in_two_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    draw = digits.make_canvases

    def spy(single: digits.Digits, *args, **settings) -> digits.Canvases:
        seen.append({image.tobytes() for image in single.images})
        return draw(single, *args, **settings)

    monkeypatch.setattr(digits, "make_canvases", spy)
    mnist.build(tmp_path / "a.hdf5", num_images=3, size=32)
    assert len(seen) == 3 and sum(map(len, seen)) == len(set.union(*seen)) > 1700


def test_open_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pairs of files in any order are joined; the larger the class, the more ink here."""
    files, classes = [], np.tile(np.arange(10), 20)
    for name, count in (("train", 200), ("t10k", 100)):
        images = np.zeros((count, 28, 28))
        for image, kind in zip(images, classes, strict=False):
            image[4:24, 4 : 6 + 2 * kind] = 255
        files += drawn.mnist(tmp_path, images, classes[:count], name)
    asked = drawn.offer(monkeypatch, mnist, {"mnist": files[::-1]})
    path = mnist.build(tmp_path / "a.hdf5", "open", num_images=6, size=64)
    about, counts = dataset.describe(path)
    assert about.licence == "none stated (MNIST)" and "LeCun" in about.source
    assert counts == {"training": 4, "validation": 1, "testing": 1}
    areas = [
        ((plane == number).sum(), 40 * (1 + kind))
        for split in counts for sample in dataset.read(path, split)
        for kind, plane in enumerate(sample.label) for number in range(1, plane.max() + 1)
    ]  # fmt: skip
    assert len(areas) > 5  # each enlarged by 1 to 1.2
    assert all(0.95 * drawn_ink < area < 1.44 * drawn_ink + 50 for area, drawn_ink in areas)
    assert asked == [("mnist", None)]
