"""The figures show what they are given."""

from collections.abc import Iterator

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba

from micranet_helpers import plots
from micranet_helpers.data.layout import Sample
from micranet_helpers.model import LAYERS


@pytest.fixture(autouse=True)
def closed_figures() -> Iterator[None]:
    matplotlib.use("Agg")
    yield
    plt.close("all")


def test_ten_classes_have_ten_colours() -> None:
    assert len({to_rgba(colour) for colour in plots.CLASS_COLOURS}) == 10


def test_images_share_one_scale_and_masks_their_colour() -> None:
    images = torch.zeros(3, 1, 16, 16)
    images[1, 0, 2, 2] = 0.5
    masks = torch.zeros(3, 10, 16, 16, dtype=torch.bool)
    masks[1, 4, 2, 3] = True
    plots.show_images(images, ["a", "b", "c"], masks)
    figure = plt.gcf()
    assert [axis.get_title() for axis in figure.axes] == ["a", "b", "c"]
    assert {axis.images[0].get_clim() for axis in figure.axes} == {(0.0, 0.5)}
    overlay = figure.axes[1].images[1].get_array()
    assert tuple(overlay[2, 3]) == pytest.approx(to_rgba(plots.CLASS_COLOURS[4], 0.75))
    assert overlay[..., 3].sum() == pytest.approx(0.75)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["4"]


def test_rows_are_filled_and_the_rest_stays_empty() -> None:
    plots.show_images(torch.rand(5, 1, 8, 8), columns=3)
    assert [len(axis.images) for axis in plt.gcf().axes] == [1, 1, 1, 1, 1, 0]


def test_samples_show_their_own_range_boxes_and_outlines() -> None:
    label = np.zeros((2, 16, 16), np.uint8)
    label[1, 4:8, 4:8] = 1
    grey = Sample("grey", np.arange(256, dtype=np.uint8).reshape(1, 16, 16), label)
    box = np.array([[1, 2, 3, 10, 12]], np.float32)
    colours = np.random.default_rng(0).random((3, 16, 16), np.float32)
    coloured = Sample("rgb", colours, label, boxes=box)
    plots.show_samples([grey, coloured], ["a", "b"], ["cell", "gap"], pixel_size_um=0.5)
    left, right = plt.gcf().axes
    assert (left.images[0].get_array().min(), left.images[0].get_array().max()) == (0, 1)
    outline = left.images[2].get_array()
    assert tuple(outline[4, 4]) == to_rgba(plots.CLASS_COLOURS[1]) and not outline[12, 12].any()
    [drawn] = right.patches
    assert (drawn.get_xy(), drawn.get_width(), drawn.get_height()) == ((2.5, 1.5), 9, 8)
    assert [text.get_text() for text in plt.gcf().legends[0].get_texts()] == ["cell", "gap"]
    assert left.texts[0].get_text() == "2 µm"
    [bar] = left.lines
    assert np.ptp(bar.get_xdata()) == pytest.approx(4)


def test_image_level_samples_have_no_outlines() -> None:
    sample = Sample("x", np.zeros((1, 8, 8), np.uint8), np.array([1], np.uint8))
    plots.show_samples([sample], classes=["cell"])
    assert len(plt.gcf().axes[0].images) == 1


def test_maps_are_named_by_layer() -> None:
    plots.show_maps(torch.rand(1, 16, 16), torch.rand(8, 16, 16), "canvas")
    titles = [axis.get_title() for axis in plt.gcf().axes]
    assert titles[0] == "canvas"
    assert [title.split()[0] for title in titles[1:]] == list(LAYERS)


def test_history_has_both_losses_and_per_cent() -> None:
    run = {"epoch": [1, 2], "loss": [0.5, 0.2], "val_loss": [0.4, 0.1], "val_accuracy": [0.9, 0.95]}
    plots.plot_history({"run": run})
    left, right = plt.gcf().axes
    assert [list(line.get_ydata()) for line in left.lines] == [[0.5, 0.2], [0.4, 0.1]]
    assert list(right.lines[0].get_ydata()) == pytest.approx([90, 95])


def test_titles_list_the_classes_present() -> None:
    assert plots.label_titles(torch.tensor([[0, 1, 2], [0, 0, 0]])) == ["1, 2", "none"]
