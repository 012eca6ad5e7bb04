"""The figures show what they are given."""

from collections.abc import Iterator
from functools import partial

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgba

from micranet_helpers import plots
from micranet_helpers.data.dataset import Sample
from micranet_helpers.metrics import Curve, Matching
from micranet_helpers.networks.micranet import LAYERS
from micranet_helpers.plots import colours
from micranet_helpers.plots.images import FOUND, MISSED, UNCOUNTED


@pytest.fixture(autouse=True)
def closed_figures() -> Iterator[None]:
    matplotlib.use("Agg")
    yield
    plt.close("all")


def legend() -> list[str]:
    return [text.get_text() for text in plt.gcf().legends[0].get_texts()]


def test_images_share_one_scale_and_masks_their_colour() -> None:
    images = torch.zeros(3, 1, 16, 16)
    images[1, 0, 2, 2] = 0.5
    masks = torch.zeros(3, 10, 16, 16, dtype=torch.bool)
    masks[1, 4, 2, 3] = True
    plots.show_images(images, plots.label_titles([[0, 1, 2], [0, 0, 0], [9, 0, 0]]), masks)
    figure = plt.gcf()
    assert [axis.get_title() for axis in figure.axes] == ["1, 2", "none", "0", "", "", ""]
    assert {axis.images[0].get_clim() for axis in figure.axes[:3]} == {(0.0, 0.5)}
    overlay = figure.axes[1].images[1].get_array()
    assert tuple(overlay[2, 3]) == pytest.approx(to_rgba(plots.CLASS_COLOURS[4], 0.75))
    assert overlay[..., 3].sum() == pytest.approx(0.75)
    assert legend() == ["4"]


def test_a_mark_is_in_every_picture_until_it_is_taken_back() -> None:
    plots.mark("simulated")
    plots.show_images(torch.rand(5, 1, 8, 8), columns=3)
    plots.show_maps(torch.rand(1, 16, 16), torch.rand(8, 16, 16))
    plots.mark("")
    plots.show_images(torch.rand(1, 1, 8, 8))
    words = [[text.get_text() for axis in plt.figure(k).axes for text in axis.texts]
             for k in plt.get_fignums()]
    assert [row.count("simulated") for row in words] == [5, 1, 0]


def test_rows_are_filled_and_the_rest_stays_empty() -> None:
    plots.show_images(torch.rand(5, 1, 8, 8), columns=3)
    assert [len(axis.images) for axis in plt.gcf().axes] == [1, 1, 1, 1, 1, 0]


def test_long_titles_are_broken_so_that_they_stay_over_their_image() -> None:
    plots.show_images(torch.rand(6, 1, 8, 8), ["predicted 5 and 6, F1 0.51"] * 6)
    figure = plt.gcf()
    figure.draw_without_rendering()
    widths = [axis.title.get_window_extent().width for axis in figure.axes]
    assert max(widths) < figure.bbox.width / 6


def test_figures_are_as_wide_as_a_page_and_leave_the_settings_alone() -> None:
    before = dict(matplotlib.rcParams)
    plots.show_images(torch.rand(4, 1, 8, 8))
    plots.show_maps(torch.rand(1, 16, 16), torch.rand(8, 16, 16))
    plots.plot_history({"run": RUN})
    assert {plt.figure(k).get_figwidth() for k in plt.get_fignums()} == {colours.WIDTH}
    assert dict(matplotlib.rcParams) == before


def test_the_first_figure_may_switch_on_that_notebooks_show_figures() -> None:
    was = matplotlib.is_interactive()
    with colours.style():
        matplotlib.interactive(not was)
    now = matplotlib.is_interactive()
    matplotlib.interactive(was)
    assert now is not was


def test_a_class_has_one_colour_in_all_its_names() -> None:
    names = ["Fluo-N2DL-HeLa cell", "Fluo-N2DL-HeLa contact", "PhC-C2DL-PSC cell", "7", "spore"]
    cell, contact, again, *numbers = colours.class_colours(names)
    assert cell == again and colours.class_colours(["contact", "cells"]) == [contact, cell]
    assert numbers == list(colours.CLASS_COLOURS[3:5])
    assert colours.class_colours("0123456789") == list(colours.CLASS_COLOURS)
    assert len({to_rgba(colour) for colour in plots.CLASS_COLOURS}) == 10


def test_methods_have_colours_of_their_own() -> None:
    one = [*colours.METHOD_COLOURS, "evidence"]
    assert len({colours.method_colour(name) for name in one}) == len(colours.METHOD_COLOURS)
    assert colours.method_colour("U-Net ALT2") == colours.method_colour("U-Net FS")
    plots.plot_history({"evidence": RUN, "classifier": RUN, "U-Net": RUN})
    left, right = plt.gcf().axes
    drawn = [line.get_color() for line in right.lines]
    assert len(set(drawn)) == 3 and drawn[2] == colours.method_colour("U-Net")


def test_samples_show_their_own_range_boxes_and_outlines() -> None:
    label = np.zeros((2, 16, 16), np.uint8)
    label[1, 4:8, 4:8] = 1
    grey = Sample("grey", np.arange(256, dtype=np.uint8).reshape(1, 16, 16), label)
    box = np.array([[0, 1, 1, 4, 4], [1, 2, 3, 10, 12]], np.float32)
    colours = np.random.default_rng(0).random((3, 16, 16), np.float32)
    coloured = Sample("rgb", colours, label, boxes=box)
    plots.show_samples([grey, coloured], ["a", "b"], ["cell", "gap"], pixel_size_um=0.5)
    left, right, *_ = plt.gcf().axes
    assert (left.images[0].get_array().min(), left.images[0].get_array().max()) == (0, 1)
    outline = left.images[2].get_array()
    assert tuple(outline[4, 4]) == to_rgba(plots.CLASS_COLOURS[1]) and not outline[12, 12].any()
    drawn, above = right.patches  # the first class is drawn last: it is what is looked for
    assert above.get_edgecolor() == to_rgba(plots.CLASS_COLOURS[0])
    assert (drawn.get_xy(), drawn.get_width(), drawn.get_height()) == ((2.5, 1.5), 9, 8)
    assert legend() == ["cell", "gap"]
    assert left.texts[0].get_text() == "2 µm" and not right.texts
    [bar] = left.lines
    assert np.ptp(bar.get_xdata()) == pytest.approx(4)


@pytest.mark.parametrize(("pixel", "text"), [(0.0046, "0.5 µm"), (0.014, "1 µm"), (0.5, "50 µm")])
def test_scale_bars_are_round_and_at_most_a_third_of_the_image(pixel: float, text: str) -> None:
    plots.show_images(torch.rand(1, 1, 384, 384), pixel_size_um=pixel)
    [bar] = plt.gca().figure.axes[0].lines
    assert plt.gcf().axes[0].texts[0].get_text() == text
    assert np.ptp(bar.get_xdata()) == pytest.approx(float(text.split()[0]) / pixel) and (
        384 / 9 < np.ptp(bar.get_xdata()) <= 384 / 3)  # fmt: skip


def test_outlines_surround_each_object_and_the_truth_is_dashed() -> None:
    touching = np.zeros((1, 16, 16), np.uint16)
    touching[0, :4, :5], touching[0, :4, 5:9] = 1, 7
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[0, 8:10, 8:10] = True
    images = torch.rand(2, 1, 16, 16)
    plots.show_outlines(images, [touching, mask], [mask, touching * 0], "ab", ["cell"], 2, 0.5)
    left, right = plt.gcf().axes
    drawn, black, white = left.collections
    assert tuple(drawn.get_color()[0]) == to_rgba(plots.CLASS_COLOURS[0])
    bounds = [(*path.vertices.min(0), *path.vertices.max(0)) for path in drawn.get_paths()]
    assert bounds == [(-0.5, -0.5, 4.5, 3.5), (4.5, -0.5, 8.5, 3.5)]  # x, y: each closed
    assert black.get_linestyle() != white.get_linestyle()
    [dashed] = white.get_paths()
    assert dashed.vertices.min() == 7.5 and dashed.vertices.max() == 9.5
    assert [len(each.get_paths()) for each in right.collections] == [1, 0, 0]
    assert left.get_xlim() == (-0.5, 15.5) and left.texts[0].get_text() == "2 µm"
    assert legend() == ["cell", "truth"]
    plots.show_outlines(images, [touching, mask], [touching * 0] * 2, classes=["cell"])
    assert legend() == ["cell"]


def test_detections_are_right_false_missed_or_not_counted() -> None:
    points = [[2, 3, 0.9], [12, 12, 0.5], [6, 13, 0.4]]
    boxes, ignore = [[0, 0, 5, 6], [10, 0, 14, 4]], [[5, 12, 8, 15]]
    images = np.zeros((2, 3, 16, 16), np.uint8)
    plots.show_detections(images, [points, []], [boxes, []], [ignore, []], 0)
    left, right, _ = plt.gcf().axes
    places = {line.get_marker(): tuple(line.get_xydata()[0]) for line in left.lines}
    assert places == {"o": (3, 2), "X": (12, 12), ".": (13, 6)}
    colours = [patch.get_edgecolor() for patch in left.patches]
    assert colours == [*map(to_rgba, (FOUND, MISSED, UNCOUNTED))]
    missed = left.patches[1]
    assert (missed.get_xy(), missed.get_width(), missed.get_height()) == ((-0.5, 9.5), 4, 4)
    assert not right.lines and not right.patches
    assert legend() == ["found", "false", "missed", "not counted"]


def test_precision_recall_shows_curves_and_chosen_thresholds() -> None:
    curve = Curve(np.array([0.9, 0.2]), np.array([1, 0.4]), np.array([0.1, 0.5]), 0.3)
    found = Matching(np.zeros((2, 2), int), num_pred=5, num_true=4)
    plots.plot_precision_recall({"a": curve, "b": curve}, {"b": found, "c": found})
    a, b, chosen, _ = plt.gca().lines
    assert list(a.get_xdata()) == [0.1, 0.5] and list(b.get_ydata()) == [1, 0.4]
    assert chosen.get_xydata().tolist() == [[0.5, 0.4]] and chosen.get_color() == b.get_color()
    assert legend() == ["a", "b", "chosen threshold"]


def test_names_of_methods_stand_beside_their_dots_and_not_on_each_other() -> None:
    points = {"U-Net FS": (3, 0.9), "ours": (3.1, 0.91), "published": (90, 0.2)}
    plots.plot_methods({"em": points}, "hours", "F1")
    axis = plt.gca()
    dots = {line.get_color(): tuple(line.get_xydata()[0]) for line in axis.lines}
    assert dots[colours.method_colour("U-Net")] == (3, 0.9) and axis.get_xscale() == "log"
    heights = {text.get_text(): text.xy[1] for text in axis.texts}
    assert heights["U-Net FS"] == 0.9 and heights["published"] == 0.2
    assert heights["ours"] > 0.98


def test_budgets_show_means_with_their_ends() -> None:
    curves = {"yes or no": {20: [0.7, 0.9, 0.8], 5: [0.5]}, "boxes": {5: [0.4, 0.6]}}
    plots.plot_budgets(curves, "minutes", "F1")
    axis = plt.gca()
    ours, boxes = axis.containers
    np.testing.assert_allclose(ours.lines[0].get_xydata(), [[5 / 1.04, 0.5], [20 / 1.04, 0.8]])
    ends = [part[:, 1].tolist() for part in ours.lines[2][0].get_segments()]
    np.testing.assert_allclose(ends, [[0.5, 0.5], [0.7, 0.9]])
    assert boxes.lines[0].get_color() != ours.lines[0].get_color()
    assert axis.get_xscale() == "log" and axis.get_xticks().tolist() == [5, 20]
    assert legend() == ["yes or no", "boxes"]


def test_bland_altman_by_hand() -> None:
    plots.plot_bland_altman([3, 5, 10], [2, 5, 8], "µm²")
    dots, *lines = plt.gca().lines
    assert dots.get_xydata().tolist() == [[2.5, 1], [5, 0], [9, 2]]
    heights = [line.get_ydata()[0] for line in lines]
    assert heights == pytest.approx([1, 1 - 1.96, 1 + 1.96])
    assert legend() == ["n = 3", "mean difference: 1 µm²",
                        "95 % limits of agreement: −0.96 to 2.96 µm²"]  # fmt: skip


def test_counts_of_many_images_are_larger_dots() -> None:
    plots.plot_counts([3, 3, 3, 1], [2, 2, 2, 1])
    [dots] = plt.gca().collections
    assert dots.get_offsets().tolist() == [[1, 1], [2, 3]]
    assert dots.get_sizes()[1] == 3 * dots.get_sizes()[0]
    assert legend() == ["equal", "4 images"]


@pytest.mark.parametrize(
    ("plot", "first", "second", "message"),
    [
        (partial(plots.plot_bland_altman, unit="px"), [1], [1], "at least 2"),
        (partial(plots.plot_bland_altman, unit="px"), [1, 2], [1], "as many"),
        (partial(plots.plot_bland_altman, unit="px"), [1, np.nan], [1, 2], "NaN"),
        (plots.plot_counts, [], [], "at least 1"),
    ],
)
def test_comparisons_need_pairs_of_numbers(plot, first, second, message) -> None:
    with pytest.raises(ValueError, match=message):
        plot(first, second)


def test_maps_are_named_by_layer() -> None:
    plots.show_maps(torch.rand(1, 16, 16), torch.rand(8, 16, 16), "canvas")
    titles = [axis.get_title() for axis in plt.gcf().axes]
    assert titles[0] == "canvas"
    assert [title.split()[0] for title in titles[1:]] == list(LAYERS)


def test_zero_is_white_in_maps_of_both_signs() -> None:
    maps = torch.linspace(0, 1, 64).reshape(8, 8).repeat(8, 1, 1)
    for lowest, colour_map in ((0, colours.SCORES), (-1, colours.SIGNED)):
        maps[3] = torch.linspace(lowest, 2, 64).reshape(8, 8)
        plots.show_maps(torch.rand(1, 8, 8), maps)
        pictures = [axis.images[0] for axis in plt.gcf().axes[1:]]
        assert {picture.get_cmap().name for picture in pictures} == {colour_map}
    assert pictures[3].to_rgba(0.0)[:3] == pytest.approx([1, 1, 1], abs=0.05)
    assert pictures[3].get_clim() == (-2, 2)


def test_numbers_stand_in_the_squares_of_a_matrix() -> None:
    plots.plot_matrix([[0.9, 0.1], [0, 1]], ("read as", "ab"), ("digit", "cd"), "share",
                      np.array([[9, 1], [0, 3]]))  # fmt: skip
    axis = plt.gcf().axes[0]
    assert {text.get_position(): text.get_text() for text in axis.texts} == {
        (0, 0): "9", (1, 0): "1", (1, 1): "3"}  # fmt: skip
    assert [label.get_text() for label in axis.get_yticklabels()] == ["c", "d"]


RUN = {"epoch": [1, 2], "loss": [0.5, 0.2], "val_loss": [0.4, 0.1], "val_accuracy": [0.9, 0.95]}


def test_history_has_both_losses_and_per_cent() -> None:
    plots.plot_history({"run": RUN})
    left, right = plt.gcf().axes
    assert [list(line.get_ydata()) for line in left.lines] == [[0.5, 0.2], [0.4, 0.1]]
    assert list(right.lines[0].get_ydata()) == pytest.approx([90, 95])


@pytest.mark.parametrize(
    ("row", "column", "rows", "columns"),
    [(10, 20, (6, 14), (16, 24)), (0, 39, (0, 8), (32, 40)), (29, 0, (22, 30), (0, 8))],
)
def test_a_square_is_cut_out_and_stays_in_the_image(row, column, rows, columns) -> None:
    image = np.arange(2 * 30 * 40).reshape(2, 30, 40)
    expected = image[:, slice(*rows), slice(*columns)]
    np.testing.assert_array_equal(plots.cut_out(image, row, column, 8), expected)
    assert plots.cut_out(image, row, column, 99).shape == image.shape


@given(st.integers(0, 29), st.integers(0, 39), st.integers(2, 12))
def test_the_busiest_square_holds_what_there_is(row, column, side) -> None:
    mask = np.zeros((30, 40), int)
    mask[row, column] = 7
    assert plots.cut_out(mask, *plots.busiest(mask, side), side).any()
    mask[10 : 10 + side, 20 : 20 + side] = 1
    assert plots.cut_out(mask, *plots.busiest(mask, side), side).all()


def test_places_are_cut_out_of_images_and_masks_alike() -> None:
    images = np.arange(2 * 3 * 40 * 40, dtype=np.float32).reshape(2, 3, 40, 40)
    mask = np.zeros((2, 1, 40, 40), bool)
    mask[0, 0, 18:22, 18:22] = True
    plots.show_places(images, [(20, 20), (0, 39)], 8, ["a", "b"], mask, classes=["cell"])
    figure = plt.gcf()
    shapes = [axis.images[0].get_array().shape for axis in figure.axes[:2]]
    assert shapes == [(8, 8, 3), (8, 8, 3)]
    [outline] = figure.axes[0].collections[0].get_segments()
    np.testing.assert_allclose(outline.mean(0), 3.5, atol=0.3)
    assert legend() == ["cell"]


def test_false_and_missed_detections_are_shown_close_up(capsys) -> None:
    images = np.zeros((2, 1, 60, 60))
    images[0, 0, 40, 40], images[1, 0, 20, 20] = 1, 1
    points = [[(10, 10), (40, 40), (55, 5)], []]
    boxes = [[(5, 5, 15, 15)], [(15, 15, 26, 26)]]
    plots.show_wrong_detections(images, points, boxes, [[(50, 0, 60, 10)], []], 0, 20)
    false, missed = (plt.figure(number).axes[0] for number in plt.get_fignums())
    for axis in (false, missed):
        assert np.argwhere(axis.images[0].get_array()).tolist() == [[10, 10]]
    assert capsys.readouterr().out == "false 1\nmissed 1\n"


def test_places_without_masks_have_no_legend_and_no_place_draws_nothing() -> None:
    plots.show_places([np.zeros((1, 20, 20))], [(10, 10)], 8)
    assert not plt.gcf().legends
    plt.close("all")
    plots.show_places([], [], 8)
    assert not plt.get_fignums()
