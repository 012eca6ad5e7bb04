"""Ask about boxes of an image, from the whole of it down to one crop, for one class.

Crops lie side by side. A question is about a square of 1, 4, 16, … of them. *No* makes all of them
negative, at no further cost; *yes* opens the quarters, and so does *cannot tell*, as a nearer look
may help. Boxes of a size of which three quarters are *yes* are opened unasked: that costs less. Of
a single crop, *cannot tell* leaves the label unknown. The quarters of a crop that is not *no* can
be asked about at once: they teach where objects end.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micranet_helpers.data.crops import Rule, crop_grid, label_crops
from micranet_helpers.data.own.answers import NO, YES, Question

ENOUGH = 8  # answers about boxes of a size, to know whether they are worth it
SECONDS = 1.0  # for a yes or no: Bearman et al. 2016, doi 10.1007/978-3-319-46478-7_34

Shapes = Mapping[str, tuple[int, int]]  # height and width of each image, px, by file name
Grids = Mapping[str, NDArray[Any]]  # a value for each crop, (rows, columns), by file name


def open_questions(
    shapes: Shapes, side: int, answers: Mapping[Question, str], largest: int | None = None,
    quarters: bool = False,
) -> Iterator[Question]:  # fmt: skip
    """Yield what can be asked now: of each image in turn down to a crop, or to a *no*.

    It begins with the smallest box of 1, 4, 16, … crops that covers an image. Boxes larger than
    ``largest`` px are opened unasked, and those of a size of which three quarters are *yes*;
    answers that are added meanwhile count. With ``quarters``, a crop is followed by its quarters,
    if its side is even, and two images are settled before others are begun.
    """
    least = side // 2 if quarters and side % 2 == 0 else side

    def opens(box: Question) -> bool:
        return box.side > least and answers.get(box, NO) != NO

    def is_asked(size: int) -> bool:
        if size <= side:
            return True
        if size > (largest or math.inf):
            return False
        given = [answer for box, answer in answers.items() if box.side == size]
        # A question about four boxes costs 1, and saves 4 times P(no).
        return len(given) < ENOUGH or given.count(YES) < 0.75 * len(given)

    def of_image(file: str, height: int, width: int) -> Iterator[Question]:
        crops = len(crop_grid(max(height, width), side, side))
        boxes = [Question(file, 0, 0, side * 2 ** (crops - 1).bit_length())]
        while boxes:
            box = boxes.pop()
            if box not in answers and is_asked(box.side):
                yield box
                if box not in answers:  # nor answered meanwhile
                    continue
            if answers.get(box) != NO and box.side > least:
                half = box.side // 2
                boxes += [Question(file, y, x, half)
                          for y in (box.top + half, box.top) if y < height
                          for x in (box.left + half, box.left) if x < width]  # fmt: skip

    turns = Counter(box.file for box in answers if not opens(box))
    images = {file: of_image(file, *shape) for file, shape in shapes.items()}
    while images:
        # The first of those asked least about.
        file = min(islice(images, 2 if quarters else None), key=turns.__getitem__)
        if (box := next(images[file], None)) is None:
            del images[file]
        else:
            yield box
            turns[file] += not opens(box)


def crops_in(box: Question, side: int) -> tuple[slice, slice]:
    """Find rows and columns of the crops of a box in the grid of its image."""
    top, left, number = box.top // side, box.left // side, box.side // side
    return slice(top, top + number), slice(left, left + number)


def known(shapes: Shapes, side: int, answers: Mapping[Question, str]) -> dict[str, NDArray]:
    """Conclude the labels of crops from answers.

    They are float32 (rows, columns) of 1, 0 or NaN for each image with an answer. The answer about
    a smaller box overrules that about a larger one; boxes that do not fit the crops are left out.
    """
    labels: dict[str, NDArray] = {}
    for box, answer in sorted(answers.items(), key=lambda item: -item[0].side):
        if box.file not in shapes or any(px % side for px in box[1:]):
            continue
        shape = tuple(len(crop_grid(length, side, side)) for length in shapes[box.file])
        grid = labels.setdefault(box.file, np.full(shape, np.nan, np.float32))
        if answer == NO or box.side == side:
            grid[crops_in(box, side)] = {YES: 1, NO: 0}.get(answer, np.nan)
    return labels


def most_useful(
    boxes: Sequence[Question], chance: Grids, side: int, number: int = 1
) -> list[Question]:
    """Choose the questions that a network doubts most, spread over the images.

    ``chance`` holds how probably each crop shows the class (other images: 0.5), a box as its most
    probable crop. Doubt is greatest at 0.5; it counts by half for an image's second question, by a
    third for its third.
    """

    def doubt(box: Question) -> float:
        grid = chance.get(box.file)
        return 1 - abs(2 * (0.5 if grid is None else grid[crops_in(box, side)].max()) - 1)

    worth, times = {}, Counter()
    for box in sorted(boxes, key=doubt, reverse=True):
        times[box.file] += 1
        worth[box] = doubt(box) / times[box.file]
    return sorted(worth, key=worth.get, reverse=True)[:number]


def crops_of_mask(mask: NDArray[Any], side: int, share: float = 0.05) -> NDArray[np.bool_]:
    """Mark the crops, (rows, columns), of which a mask, (H, W), covers more than a share."""
    tops, lefts = (crop_grid(length, side, side) for length in mask.shape)
    rule = Rule(("object",), positive_share=share)
    return label_crops(mask[None], tops, lefts, side, rule, rule.classes)[0][..., 0]


def simulate(
    present: Grids, side: int, boxes: Iterable[Question], answers: dict[Question, str],
    number: int, error: float = 0, seed: int = 0,
) -> None:  # fmt: skip
    """Simulate who answers up to ``number`` questions, and add the answers.

    Yes if a crop of the box shows the class (``present``, by :func:`crops_of_mask`); a share
    ``error`` of the answers, drawn from ``seed``, is wrong.
    """
    rng = np.random.default_rng([seed, len(answers)])
    for box in islice(boxes, number):
        shown = present[box.file][crops_in(box, side)].any()
        answers[box] = YES if shown ^ (rng.random() < error) else NO
