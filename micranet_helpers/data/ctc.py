"""Cell lines of the Cell Tracking Challenge, and Usiigaci: cells, and contacts between them.

A line has two classes, *cell* and *contact*. Two cells are in contact where at most four pixels
lie between them (:func:`contacts`). Networks are shown only whether a crop holds a cell or a
contact of a line; masks serve to work that out, and to evaluate.

Masks of the challenge come in several kinds. For each sequence the first that is there is used:

1. ``01_ST/SEG``, the silver truth: nearly all cells of all frames, a vote of good programs;
2. ``01_GT/SEG``, the gold truth, drawn by people in a few frames. A frame counts only if each
   marker of ``01_GT/TRA`` lies on a drawn cell: in some frames only a few cells are drawn;
3. ``01_ERR_SEG``, masks of a program, with its errors.

The markers of TRA are no masks: they only say how many cells there are.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, minimum_filter
from skimage.measure import label as components
from skimage.segmentation import expand_labels, relabel_sequential

from micranet_helpers.data import sources
from micranet_helpers.data.crops import Rule
from micranet_helpers.data.dataset import SPLITS, Sample
from micranet_helpers.data.fetch.download import fetch
from micranet_helpers.data.scaling import scale_of
from micranet_helpers.data.simulated import cells as drawn
from micranet_helpers.files.images import read_image, read_mask

LINES = (
    "DIC-C2DH-HeLa", "Fluo-C2DL-MSC", "Fluo-N2DH-GOWT1", "Fluo-N2DL-HeLa", "PhC-C2DH-U373",
    "PhC-C2DL-PSC", "Usiigaci",
)  # fmt: skip
"""All lines; the first six, of the challenge, in the order of the MICRA-Net paper's outputs."""

DRAWN = ("Fluo-N2DL-HeLa", "PhC-C2DL-PSC", "Usiigaci")
"""Lines that :func:`simulate` draws."""

MASKS = (("_ST/SEG", "man_seg"), ("_GT/SEG", "man_seg"), ("_ERR_SEG", "mask"))
"""Where masks lie and how their names begin, best first."""

MARGIN = {
    "DIC-C2DH-HeLa": (50, 512), "Fluo-C2DL-MSC": (50, 832), "Fluo-N2DH-GOWT1": (50, 1024),
    "Fluo-N2DL-HeLa": (25, 700), "PhC-C2DH-U373": (50, 520), "PhC-C2DL-PSC": (25, 576),
    "Usiigaci": (0, 1022),
}  # fmt: skip
"""Width of the border in which cells may be unlabelled, px, in frames of that height, px; in an
enlarged copy the border is wider in proportion. 25 px were found in copies of two lines; 50 px is
the challenge's rule for larger cells."""

CONTACT = 4
"""Most pixels between two cells in contact; even."""

PIECES = 20  # where a number has this many pieces or more, the numbers of a mask are broken
CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], bool)  # a pixel and those at its sides

Pairs = Sequence[tuple[Path, Path]]  # frames and their masks


def classes(lines: Iterable[str] = DRAWN) -> tuple[str, ...]:
    """Name the planes of the labels: ``"LINE cell"`` and ``"LINE contact"`` of each line."""
    lines = tuple(lines)
    if not lines or len(set(lines)) < len(lines) or not set(lines) <= set(LINES):
        raise ValueError(f"The lines must be some of {', '.join(LINES)}, not {', '.join(lines)}.")
    return tuple(f"{line} {what}" for line in lines for what in ("cell", "contact"))


def rule(lines: Iterable[str] = DRAWN) -> Rule:
    """Make the rule of crops of a dataset of some lines, with the classes of :func:`classes`.

    A cell or contact is present if a quarter of it is in the crop; crops that only touch less are
    dropped. So a crop must have room for a quarter of a cell.
    """
    return Rule(classes(lines), visible_share=0.25)


CLASSES, RULE = classes(), rule()
"""Where no lines are chosen."""


def contacts(cells: NDArray[Any]) -> NDArray[np.int64]:
    """Find where cells touch or nearly touch, by their numbers (H, W), 0: none.

    Each cell is grown by half of :data:`CONTACT`; where it meets another cell's growth (they share
    a pixel's side), a contact lies, and is widened by as much. So two cells that face each other
    are in contact if at most four pixels lie between them. This definition is ours: that of the
    MICRA-Net paper was not published. The result, int64 (H, W), numbers the contacts, 0: none; one
    for each pair of cells and place where they meet.
    """
    grown = expand_labels(np.asarray(cells, np.int64), CONTACT / 2)
    highest = maximum_filter(grown, footprint=CROSS)
    lowest = minimum_filter(np.where(grown, grown, highest.max() + 1), footprint=CROSS)
    # By pairs: in a dense layer, contacts that meet at corners would be one net over the frame.
    pairs = np.where((grown > 0) & (highest != lowest), lowest * (highest.max() + 1) + highest, 0)
    return expand_labels(components(pairs), CONTACT / 2).astype(np.int64)


def find(folder: str | Path, line: str) -> dict[str, Pairs]:
    """Find the frames that have masks, and split them.

    With two sequences, the last is for testing; the first is cut into two blocks of time. One
    sequence is cut into three blocks: its test shows the same cells, hours later. A held-out
    block is 15 % of the frames with masks, and 5 %, at least one, are left out before it, since
    neighbours in time look alike. Fields of Usiigaci are unrelated and go by their numbers n:
    testing are those with n mod 6 = 0, validation those with n mod 6 = 3. Of its 45 sets of masks,
    20 come with their image.
    """
    if line == "Usiigaci":
        return _fields(Path(folder))
    places = sorted(path for path in Path(folder).rglob("0[0-9]") if path.is_dir())
    sequences = [pairs for pairs in map(_pairs, places) if pairs]
    if not sequences:
        raise ValueError(f"{folder} holds no frames of {line} with complete masks: get it again.")
    if len(sequences) == 1:
        return _blocks(sequences[0], SPLITS, folder)
    return {**_blocks(sequences[0], SPLITS[:2], folder), "testing": sequences[-1]}


def _fields(folder: Path) -> dict[str, Pairs]:
    """Split the fields of Usiigaci."""
    splits = {split: [] for split in SPLITS}
    for mask in folder.rglob("set[0-9]*/instances_ids.png"):
        if not mask.with_name("phase.png").is_file():
            continue
        number = int(re.sub(r"\D", "", mask.parent.name))
        split = {0: "testing", 3: "validation"}.get(number % 6, "training")
        splits[split].append((number, mask.with_name("phase.png"), mask))
    if not all(splits.values()):
        raise ValueError(f"{folder} holds too few sets of Usiigaci to be split: get it again.")
    return {split: [pair for _, *pair in sorted(found)] for split, found in splits.items()}


def _pairs(sequence: Path) -> Pairs:
    """Pair the frames of a sequence with the best masks that there are."""
    for place, prefix in MASKS:
        folder = sequence.parent / f"{sequence.name}{place}"
        masks = sorted(folder.glob(f"{prefix}[0-9]*.tif"))
        pairs = [(sequence / mask.name.replace(prefix, "t"), mask) for mask in masks]
        if place == "_GT/SEG":
            pairs = [pair for pair in pairs if _is_complete(pair[1])]
        if pairs:
            return pairs
    return []


def _is_complete(mask: Path) -> bool:
    """Check that a drawn cell lies at each marker; without markers that is unknown."""
    markers = mask.parents[1] / "TRA" / mask.name.replace("man_seg", "man_track")
    if not markers.is_file():
        return False
    cells, marked = read_mask(mask), read_mask(markers)
    return set(np.unique(marked)) <= {0, *np.unique(marked[cells > 0])}


def _blocks(pairs: Pairs, splits: Sequence[str], folder: str | Path) -> dict[str, Pairs]:
    """Cut a sequence into blocks of time, with gaps between them."""
    held, gap = max(1, round(0.15 * len(pairs))), max(1, round(0.05 * len(pairs)))
    blocks = {}
    for split in reversed(splits[1:]):
        pairs, blocks[split] = pairs[: -held - gap], pairs[-held:]
    if not pairs:
        raise ValueError(
            f"A sequence in {folder} has too few frames with masks to be split: leave the line out."
        )
    return {splits[0]: pairs, **blocks}


def read(pairs: Iterable[tuple[Path, Path]], line: str, lines: Iterable[str]) -> Iterator[Sample]:
    """Read frames with their masks, one at a time.

    The border in which cells may be unlabelled is cut off. Frames are scaled so that the whole
    frame's least value is 0 and its largest 1. If a number in a mask has 20 pieces or more, the
    numbers are taken for broken, and each piece of the mask for a cell; cells that touch are
    then one. The label holds numbered cells and contacts in the planes of the line.
    """
    names, (border, height) = classes(lines), MARGIN[line]
    for frame, mask in pairs:
        image, cells = read_image(frame), read_mask(mask).astype(np.int64)
        edge = round(border * max(1, len(cells) / height))
        if len(image) != 1 or image.dtype.kind != "u" or image.shape[1:] != cells.shape:
            raise ValueError(
                f"{frame} is {image.dtype} {image.shape}, its mask {mask} {cells.shape}: expected "
                "are a grey image of 8 or 16 bits and a mask of its size; download them again."
            )
        if min(cells.shape) <= 2 * edge:
            raise ValueError(f"{frame} is all border of {edge} px: download it again.")
        inside = (..., *(slice(edge, side - edge) for side in cells.shape))
        cells = _numbered(cells)
        first = names.index(f"{line} cell")
        label = _label(cells[inside], contacts(cells)[inside], first, len(names))
        cut = image[inside].astype(np.uint16)
        yield Sample("/".join(frame.parts[-3:]), cut, label, *scale_of(image, "minmax"))


def _numbered(cells: NDArray[np.int64]) -> NDArray[np.int64]:
    """Keep the numbers of a mask unless they are broken."""
    pieces, count = components(cells, return_num=True)
    owner = np.zeros(count + 1, np.int64)
    owner[pieces] = cells
    return components(cells > 0) if np.bincount(owner[1:], minlength=1).max() >= PIECES else cells


def _label(
    cells: NDArray[Any], contact: NDArray[Any], first: int, count: int
) -> NDArray[np.uint16]:
    """Stack the planes of a line into those of all lines, each numbered from 1."""
    label = np.zeros((count, *cells.shape), np.uint16)
    for plane, numbers in enumerate((cells, contact), first):
        label[plane] = relabel_sequential(numbers)[0]
    return label


def line_of(sample: Sample) -> int:
    """Find which cell line a frame shows, by its truth: the number of the first that has a cell.

    Its classes are cell and contact of each line in turn.
    """
    return int(sample.label.any((1, 2))[::2].argmax())


def build(
    path: str | Path, source: str = "simulated", *, lines: Sequence[str] | None = None,
    subset: str | None = None, num_images: int = 60, size: int = 512, seed: int = 0,
) -> Path:  # fmt: skip
    """Write a dataset with the splits training, validation and testing, and return its path.

    Real frames are split by :func:`find`. Pixels of the lines differ in size: frames keep theirs.

    ``source`` is ``"simulated"``; ``"original"``, the six lines of the challenge that the MICRA-Net
    paper used; or ``"open"``, Usiigaci and two lines of the challenge. ``lines`` are given in the
    order of the classes; by default all of the source. The rest, and the errors, are as for
    :func:`micranet_helpers.data.em.build`; only the download of Usiigaci has a subset, ``"small"``.
    """
    lines = (LINES[:-1] if source == "original" else DRAWN) if lines is None else tuple(lines)
    names = classes(lines)  # before anything is downloaded

    def real() -> sources.Made:
        return _real(lines, subset), sources.cited(names, *map(item_of, lines))

    return sources.write(path, source, {
        "simulated": lambda: sources.simulated(
            num_images, partial(_draw, seed, _drawable(size, lines), size), names, __name__
        ),
        "open": real, "original": real,
    }, scaling="minmax")  # fmt: skip


def item_of(line: str) -> str:
    """Name the download of a line: :mod:`micranet_helpers.data.fetch.registry`."""
    return "phase-cells" if line == "Usiigaci" else line


def _real(lines: Sequence[str], subset: str | None) -> dict[str, Iterator[Sample]]:
    """Fetch the lines and split their frames."""
    found = {}
    for line in lines:
        files = fetch(item_of(line), subset if line == "Usiigaci" else None)
        # Usiigaci: TRAIN/set1/phase.png; a line of the challenge: the folder of its archive.
        found[line] = find(files[0].parents[1] if line == "Usiigaci" else files[0], line)
        if line == "Usiigaci":  # of what lies there, only what was asked for
            found[line] = {split: [pair for pair in pairs if pair[0] in files]
                           for split, pairs in found[line].items()}  # fmt: skip
    return {
        split: chain(*[read(found[line][split], line, lines) for line in lines])
        for split in SPLITS
    }


def simulate(n: int, size: int, seed: int = 0, lines: Sequence[str] = DRAWN) -> list[Sample]:
    """Draw n images, cells of one line in each: see :mod:`micranet_helpers.data.simulated.cells`.

    Image i shows the line ``lines[i % len(lines)]``, some of :data:`DRAWN`, and depends on
    ``size``, ``seed`` and i only. Images are uint16 (1, size, size), labels uint16 (2 L, size,
    size) as of :func:`read`, exact.
    """
    return list(map(partial(_draw, seed, _drawable(size, lines), size), range(n)))


def _drawable(size: int, lines: Sequence[str]) -> Sequence[str]:
    """Refuse lines that cannot be drawn."""
    classes(lines)
    if size < 1 or not set(lines) <= set(DRAWN):
        raise ValueError(
            f"Only {', '.join(DRAWN)} can be simulated, of 1 px or more, not {', '.join(lines)} "
            f"of {size} px."
        )
    return lines


def _draw(seed: int, lines: Sequence[str], size: int, number: int) -> Sample:
    which = number % len(lines)
    image, cells = drawn.draw(np.random.default_rng([seed, number]), size, lines[which])
    label = _label(cells, contacts(cells), 2 * which, 2 * len(lines))
    image = image[None]
    return Sample(f"{lines[which]}-{seed}-{number}", image, label, *scale_of(image, "minmax"))
