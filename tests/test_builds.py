"""Every dataset: its simulated images and file, its open data, and what its build refuses."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from micranet_helpers.data import actin, ctc, dataset, em, mnist, pvivax

MODULES = [mnist, ctc, pvivax, em, actin]
each_module = pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__.split(".")[-1])


def assert_same(one: dataset.Sample, other: dataset.Sample) -> None:
    assert one.name == other.name
    np.testing.assert_array_equal(one.image, other.image)
    np.testing.assert_array_equal(one.label, other.label)
    np.testing.assert_allclose(one.pixels, other.pixels, atol=1e-6)


@each_module
def test_an_image_depends_on_its_number_and_seed_only(module: ModuleType) -> None:
    # The canvases of a batch are drawn together.
    few, many, other = (
        module.simulate(n, 64, seed) for n, seed in ((2 + (module is mnist), 5), (3, 5), (2, 6))
    )
    for a, b, c in zip(few, many, other, strict=False):
        assert_same(a, b)
        assert a.name != c.name and (a.image != c.image).mean() > 0.2
    assert (many[0].image != many[2].image).mean() > 0.2


@each_module
def test_simulated_file(tmp_path: Path, module: ModuleType) -> None:
    path = module.build(tmp_path / "a.hdf5", num_images=5, size=64, seed=3)
    about, counts = dataset.describe(path)
    assert counts == {"training": 3, "validation": 1, "testing": 1}
    assert about.classes == module.CLASSES and set(module.RULE.classes) <= set(module.CLASSES)
    assert about.pixel_size_um == getattr(module, "PIXEL_SIZE", None)
    samples = [sample for split in counts for sample in dataset.read(path, split)]
    assert len({sample.image.tobytes() for sample in samples}) == 5
    if module is mnist:  # its digits are split
        assert "scikit-learn" in about.source and about.licence == "CC BY 4.0"
        return
    assert about.source == f"simulated by {module.__name__}" and about.licence == "MIT"
    for sample, same in zip(samples, module.simulate(5, 64, 3), strict=True):
        assert_same(sample, same)


@pytest.mark.data
@pytest.mark.parametrize(
    ("module", "options", "sizes"),
    [(mnist, {"subset": "test", "num_images": 4, "size": 64}, (2, 1, 1)),
     (em, {"subset": "small"}, (8, 2, 2)), (actin, {"subset": "small"}, (5, 1, 1))],
)  # fmt: skip
def test_open_file_of_the_published_data(tmp_path, mirror_url, monkeypatch, module, options, sizes):
    monkeypatch.setenv("MICRANET_MIRROR", mirror_url)
    # A folder's name is no split.
    monkeypatch.setenv("MICRANET_DATA", str(tmp_path / "test" / "cache"))
    path = module.build(tmp_path / "a.hdf5", "open", **options)
    assert tuple(dataset.describe(path)[1].values()) == sizes


@each_module
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "real"}, "no source 'real': take 'simulated'"),
        ({"num_images": 2}, "at least 3 images, not 2"),
        ({"size": -8}, "multiple of 8|of 1 px or more|at least 1 px|64 or more|64 px or more"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, module, settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        module.build(tmp_path / "a.hdf5", **settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", [mnist, em])
def test_data_that_were_never_published_are_named(tmp_path: Path, module: ModuleType) -> None:
    with pytest.raises(ValueError, match="take 'simulated' or 'open'; .*never published"):
        module.build(tmp_path / "a.hdf5", "original")


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"lines": ["DIC-C2DH-HeLa"]}, "can be simulated"),
     ({"source": "open", "lines": ["x"]}, "must be some of")],
)  # fmt: skip
def test_wrong_lines_are_refused(tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ctc.build(tmp_path / "a.hdf5", **settings)
