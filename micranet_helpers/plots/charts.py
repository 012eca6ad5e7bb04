"""Draw scores and histories as charts."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator
from numpy.typing import ArrayLike, NDArray

from micranet_helpers.metrics import Curve, Matching
from micranet_helpers.plots.colours import WIDTH, method_colour, run_colours, style


@style()
def plot_precision_recall(curves: Mapping[str, Curve], chosen: Mapping[str, Matching]) -> None:
    """Plot precision over recall for each method, and the thresholds that were chosen.

    Curves are those of :func:`~micranet_helpers.metrics.boxes.precision_recall`; ``chosen`` holds,
    under a curve's name, the matching of all images together at the chosen threshold.
    """
    figure, axis = plt.subplots(figsize=(4.5, 4))
    colours = run_colours(curves)
    for name, curve in curves.items():
        axis.plot(curve.recall, curve.precision, color=colours[name], label=name)
    for name in curves.keys() & chosen.keys():
        axis.plot(chosen[name].recall, chosen[name].precision, marker="o", color=colours[name],
                  markeredgecolor="black")  # fmt: skip
    axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1.03), ylim=(0, 1.03))
    axis.plot([], [], "o", color="white", markeredgecolor="black", label="chosen threshold")
    figure.legend(loc="outside upper center", ncols=2)


@style()
def plot_methods(
    panels: Mapping[str, Mapping[str, tuple[float, float]]], xlabel: str, ylabel: str
) -> None:
    """Plot scores of methods over their costs, a panel for each dataset.

    ``panels`` gives, for each dataset and name of a method, its cost (above 0, logarithmic axis)
    and its measure, 0 to 1; the labels name the two.
    """
    figure, axes = plt.subplots(len(panels), 1, figsize=(WIDTH, 2.4 * len(panels)), sharex=True,
                                squeeze=False)  # fmt: skip
    for axis, (title, points) in zip(axes[:, 0], panels.items(), strict=True):
        for name, height in _heights(points).items():
            cost, measure = points[name]
            axis.plot(cost, measure, "o", color=method_colour(name))
            # A name is to the right of its dot, unless it would cover another dot.
            left = any(1 < x / cost < 5 and abs(y - height) < 0.06 for x, y in points.values())
            axis.annotate(name, (cost, height), xytext=(-6 if left else 6, 0),
                          textcoords="offset points", ha="right" if left else "left",
                          va="center", fontsize=8)  # fmt: skip
        axis.set(ylabel=ylabel, xscale="log", ylim=(-0.05, 1.12))
        axis.set_title(title, loc="left")
        axis.margins(x=0.25)  # room for the names
    axes[-1, 0].set(xlabel=xlabel)
    axes[-1, 0].xaxis.set(major_locator=LogLocator(subs=(1, 3)), minor_locator=NullLocator(),
                          major_formatter="{x:g}")  # fmt: skip


@style()
def plot_budgets(
    curves: Mapping[str, Mapping[float, Sequence[float]]], xlabel: str, ylabel: str
) -> None:
    """Plot measures of methods over budgets: the mean of several runs, their lowest and highest.

    ``curves`` gives, for each name of a method and budget (above 0, logarithmic axis), the measures
    of its runs, 0 to 1; the labels name the two axes.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 3.2))
    colours = run_colours(curves)
    for number, ((name, runs), mark) in enumerate(zip(curves.items(), "os^Dvp*X<>", strict=False)):
        costs = sorted(runs)
        beside = 1.04 ** (number - len(curves) / 2)  # so that equal measures do not hide each other
        means = np.array([np.mean(runs[cost]) for cost in costs])
        ends = np.array([(min(runs[cost]), max(runs[cost])) for cost in costs]).T
        axis.errorbar(np.multiply(costs, beside), means, np.abs(ends - means), label=name,
                      marker=mark, capsize=3, color=colours[name])  # fmt: skip
    ticks = sorted({cost for runs in curves.values() for cost in runs})
    axis.set(xlabel=xlabel, ylabel=ylabel, xscale="log", ylim=(0, 1))
    axis.xaxis.set(major_locator=FixedLocator(ticks), minor_locator=NullLocator(),
                   major_formatter="{x:g}")  # fmt: skip
    figure.legend(loc="outside right upper")


def _heights(points: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Place the names of dots: each at the height of its dot, or above a name that covers it."""
    heights: dict[str, float] = {}
    for name in sorted(points, key=lambda name: points[name][1]):
        cost, height = points[name]
        below = [heights[other] for other in heights if 1 / 4 < points[other][0] / cost < 4]
        heights[name] = max([height, *(lower + 0.085 for lower in below)])
    return heights


@style()
def plot_bland_altman(measured: ArrayLike, true: ArrayLike, unit: str) -> None:
    """Plot differences of two measurements over their mean (Bland–Altman plot).

    Measured and true values, (N,), are those of at least two objects or images; ``unit`` is theirs.
    The lines show the mean difference and the 95 % limits of agreement, mean ± 1.96 standard
    deviations; the legend states them. Raises ValueError if the values are not finite, differ in
    number, or are less than two.

    Bland & Altman 1986, Lancet 327, 307–310, doi 10.1016/S0140-6736(86)90837-8.
    """
    measured, true = _pair(measured, true, least=2)
    difference = measured - true
    mean, width = difference.mean(), 1.96 * difference.std(ddof=1)
    figure, axis = plt.subplots(figsize=(4.5, 3.6))
    axis.plot((measured + true) / 2, difference, "o", color=method_colour(""), alpha=0.6,
              label=f"n = {len(true)}")  # fmt: skip
    axis.axhline(mean, color="black", label=f"mean difference: {_number(mean)} {unit}")
    low, high = mean - width, mean + width
    limits = f"95 % limits of agreement: {_number(low)} to {_number(high)} {unit}"
    for limit, label in ((low, limits), (high, None)):
        axis.axhline(limit, color="black", linestyle="--", label=label)
    axis.set(xlabel=f"mean of measured and true, {unit}", ylabel=f"measured − true, {unit}")
    figure.legend(loc="outside upper center")


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")  # as matplotlib writes it beside the axes


@style()
def plot_counts(predicted: ArrayLike, true: ArrayLike) -> None:
    """Plot predicted over true numbers of objects, (N,) each; larger dots are more images.

    Raises ValueError if the values are not finite, differ in number, or there are none.
    """
    predicted, true = _pair(predicted, true, least=1)
    places, images = np.unique(np.c_[true, predicted], axis=0, return_counts=True)
    figure, axis = plt.subplots(figsize=(4, 4))
    highest = places.max() + 1
    axis.plot([0, highest], [0, highest], "--", color="grey", label="equal", zorder=0)
    area = np.maximum(30 * images * min(1, 10 / images.max()), 6)
    axis.scatter(*places.T, area, color=method_colour(""), alpha=0.7, label=f"{len(true)} images")
    axis.set(xlabel="true number", ylabel="predicted number", aspect="equal")
    for side in (axis.xaxis, axis.yaxis):
        side.get_major_locator().set_params(integer=True)
    figure.legend(loc="outside upper center", ncols=2)


def _pair(first: ArrayLike, second: ArrayLike, least: int) -> tuple[NDArray[np.float64], ...]:
    first, second = np.asarray(first, float), np.asarray(second, float)
    finite = np.isfinite(first).all() and np.isfinite(second).all()
    if first.ndim != 1 or first.shape != second.shape or len(first) < least or not finite:
        raise ValueError(
            f"Give two lists of as many finite numbers, at least {least}, not {first.shape} and "
            f"{second.shape} or NaN."
        )
    return first, second


@style()
def plot_matrix(
    shares: ArrayLike,
    across: tuple[str, Sequence[str]],
    down: tuple[str, Sequence[str]],
    label: str,
    numbers: ArrayLike | None = None,
) -> None:
    """Plot a table of shares as coloured squares, such as a confusion matrix.

    Parameters
    ----------
    shares : array-like, float, (R, C)
        In [0, 1].
    across, down : (str, sequence of str)
        Title of the columns and of the rows, and the name of each of the C or R.
    label : str
        Meaning of the colour.
    numbers : array-like, int, (R, C), optional
        Numbers to write into the squares; 0 is left out.
    """
    shares = np.asarray(shares)
    figure, axis = plt.subplots(figsize=(5, 4.2))
    picture = axis.imshow(shares, vmin=0, vmax=1)
    figure.colorbar(picture, label=label)
    for (row, column), number in np.ndenumerate([] if numbers is None else numbers):
        if number:
            colour = "black" if shares[row, column] > 0.5 else "white"
            axis.text(column, row, number, ha="center", va="center", fontsize=8, color=colour)
    axis.set(xlabel=across[0], xticks=range(len(across[1])), xticklabels=across[1],
             ylabel=down[0], yticks=range(len(down[1])), yticklabels=down[1])  # fmt: skip


@style()
def plot_history(histories: dict[str, dict[str, list[float]]]) -> None:
    """Plot the losses and the share of right labels of some runs over their epochs.

    Each has a name and a :func:`~micranet_helpers.train.run.history`; colours are those of
    :func:`~micranet_helpers.plots.colours.run_colours`.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.9))
    colours = run_colours(histories)
    for name, history in histories.items():
        colour, epochs = colours[name], history["epoch"]
        left.plot(epochs, history["loss"], "--o", color=colour, label=f"{name}, training")
        left.plot(epochs, history["val_loss"], "-o", color=colour, label=f"{name}, validation")
        right.plot(epochs, np.array(history["val_accuracy"]) * 100, "-o", color=colour)
    left.set(xlabel="epoch", ylabel="loss", yscale="log")
    right.set(xlabel="epoch", ylabel="validation labels right, %")
    for axis in (left, right):
        axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    figure.legend(loc="outside lower center", ncols=2, handlelength=3.5)
