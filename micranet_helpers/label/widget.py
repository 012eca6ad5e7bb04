"""Show questions and take answers, in JupyterLab, VS Code and Colab, without a network.

``labeller.js`` shows :attr:`Labeller.view` and sends what was clicked, with the box that was seen.
An answer is in the file before the next question is shown.
"""

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import anywidget
import numpy as np
import traitlets
from PIL import Image

from micranet_helpers.data.own.answers import UNDO, YES, Question, of_class, read
from micranet_helpers.files.series import read_plane
from micranet_helpers.label import advice, answers, loop, questions
from micranet_helpers.plots.images import on_screen, outlined
from micranet_helpers.plots.png import png
from micranet_helpers.plots.sliders import data_url
from micranet_helpers.zoo import Usage

TRAINING = "Training on all answers so far; go on answering."
ONE, SMALL, GRID = 448, 144, 12  # sides of pictures, px of the screen; crops in a grid


class Labeller(anywidget.AnyWidget):
    """Ask about the images of a folder, keep the answers, train when asked to.

    ``usage`` names classes and scaling; its ``side``, px of the network, and ``magnification`` make
    the crops. Answers of ``who``, by default the user, are added to ``file``; :meth:`train` stores
    networks in ``zoo``. Images that cannot be read are left out, which a message says. Raises
    ValueError if ``folder`` holds no image.
    """

    _esm = Path(__file__).with_name("labeller.js")
    _css = Path(__file__).with_name("labeller.css")
    view = traitlets.Dict().tag(sync=True)

    def __init__(
        self, folder: str | Path, usage: Usage, file: str | Path = "answers.csv",
        zoo: str | Path = "labelled.hdf5", who: str | None = None, epochs: int = 40,
    ) -> None:  # fmt: skip
        super().__init__()
        self.paths, self.shapes, left_out = {}, {}, []
        for name, path in loop.paths_of(folder).items():
            try:
                self.shapes[name], self.paths[name] = read_plane(path).image.shape[1:], path
            except (ValueError, OSError) as error:
                left_out.append(str(error))
        if not self.shapes:
            raise ValueError(f"{folder} holds no image: check the path. {' '.join(left_out)}")
        self.side = round(usage.side / usage.magnification)
        self.usage, self.file, self.zoo, self.epochs = usage, Path(file).expanduser(), zoo, epochs
        self.who, self.cls, self.grid, self.around = who or getpass.getuser(), 0, False, 2.0
        self.trained, self.unet, self.results, self.busy = None, None, [], False
        self.message, self.verdict = " ".join(left_out), ""  # now, and of the last training
        self._one = Lock()
        self.on_msg(lambda _, said, __: self.act(**said))
        self._show()

    def act(self, do: str, value: Any = None) -> None:
        """Do what was clicked: answer, undo, set, measure or start."""
        self.message = ""
        with self._reporting():
            getattr(self, f"_{do}")(value)
        self._show()

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a traceback would be lost in a log
            self.message = str(error)

    def _answer(self, given: list[tuple[list, str]]) -> None:
        cls = self.usage.classes[self.cls]
        answers.append(self.file, [(Question(*box), cls, word) for box, word in given], self.who)

    def _undo(self, _: Any) -> None:
        mine = [each for each in read(self.file) if each.who == self.who]
        last = max((each.time for each in mine), default="")  # of all answers about a grid
        rows = [(each.box, each.cls, UNDO) for each in mine if each.time == last]
        answers.append(self.file, rows, self.who)

    def _set(self, changes: dict[str, Any]) -> None:
        self.cls, self.grid = changes.get("cls", self.cls), changes.get("grid", self.grid)
        self.around = min(max(self.around * changes.get("zoom", 1), 1), 64)

    def _measure(self, px: float) -> None:
        text = advice.for_size(px)[2]
        self.message = f"{text} To use them, set object_px = {px:.0f} and run the cells again."

    def _start(self, outlines: bool) -> None:
        if self.busy:
            return
        self.busy = True
        Thread(target=self.train, args=(bool(outlines),), daemon=True).start()

    def train(self, outlines: bool = False) -> None:
        """Train on all answers so far; show AUC, masks of three images and advice.

        ``outlines`` trains a U-Net, too (:func:`~micranet_helpers.label.loop.refine_now`).
        """
        with self._reporting():
            labels = answers.labels(self.file, self.shapes, self.side, self.usage.classes)
            trained = loop.train_now(self.paths, labels, self.usage, self.zoo, self.epochs)
            self.chance = loop.chances(trained, self.paths)  # before the other thread asks for it
            self.trained = trained
            given = read(self.file)
            self.unet = loop.refine_now(
                self.trained, self.paths, [of_class(given, cls) for cls in self.usage.classes],
                self.zoo, self.epochs) if outlines else None  # fmt: skip
            self.results = [self._marked(file) for file in [*labels][:3]]
            images = {file: read_plane(self.paths[file]).image for file in labels}
            self.verdict = " ".join(
                f"{cls}: crop AUC {self.trained.auc[k]:.2f} on images left out. "
                + advice.on_labels(images, {f: g[..., k] for f, g in labels.items()}, self.side)
                for k, cls in enumerate(self.usage.classes))  # fmt: skip
            self.message = ""
        self.verdict = self.message or self.verdict  # what went wrong stays, too
        self.busy = False
        self._show()

    def _show(self) -> None:
        with self._one:  # the training shows its end from a thread of its own
            given = read(self.file)
            mine = of_class(given, self.usage.classes[self.cls])
            yes = sum(each.answer == YES for each in given)
            labels = questions.known(self.shapes, self.side, mine).values()
            known = np.concatenate([[], *(grid[~np.isnan(grid)] for grid in labels)])
            self.view = {
                "classes": self.usage.classes, "cls": self.cls, "grid": self.grid,
                "tiles": [self._tile(box) for box in self._open(mine)], "busy": self.busy,
                "progress": f"{len(given)} answers, {yes} yes, about {answers.minutes(given):.0f} "
                            f"minutes. {advice.on_share(known > 0)}",
                "message": self.message or (TRAINING if self.busy else self.verdict),
                "results": self.results,
            }  # fmt: skip

    def _open(self, mine: dict[Question, str]) -> list[Question]:
        """Choose what is asked next: a box, or crops; quarters of crops last."""
        number, largest = GRID if self.grid else 1, self.side if self.grid or self.trained else None
        ask = partial(questions.open_questions, self.shapes, self.side, mine, largest)
        crops = ask() if largest else ()
        if self.trained:  # it knows which crops are worth a question
            chance = {file: grid[..., self.cls] for file, grid in self.chance.items()}
            crops = questions.most_useful([*crops], chance, self.side, number)
        return [*islice(crops, number)] or [*islice(ask(quarters=True), number)]

    def _tile(self, box: Question) -> dict[str, Any]:
        """Show a box and what is around it; black is outside the image."""
        around = self.around if box.side < max(self.shapes[box.file]) else 1
        reach, size = round(box.side * (around - 1) / 2), SMALL if self.grid else ONE
        left, top, px = box.left - reach, box.top - reach, box.side + 2 * reach
        window = left, top, left + px, top + px
        picture = _shown(self.paths[box.file]).crop(window).resize((size, size))
        url = data_url(png(np.asarray(picture)))
        return {"box": box, "px": px, "inset": reach / px, "src": url,
                "alt": f"{box.file}, {box.side} px from row {box.top}, column {box.left}"}

    def _marked(self, file: str) -> dict[str, str]:
        masks = loop.masks_of(self.trained, self.paths[file], self.unet)
        image = read_plane(self.paths[file]).image
        picture = outlined(image, masks, [(255, 230, 0)] * len(masks))
        return {"src": data_url(png(picture)), "alt": f"{file}: outlines of what the network marks"}


@lru_cache(8)
def _shown(path: Path) -> Image.Image:
    return Image.fromarray(on_screen(read_plane(path).image))
