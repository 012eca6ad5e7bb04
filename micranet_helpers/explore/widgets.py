"""Show the explorer's widgets: every control is a choice, every picture follows from the choices.

Only ipywidgets is used, so it works where Jupyter does, without anything from the network. Its
pictures know no clicks. So a grid of transparent buttons covers the overview: a click puts the
crop there, and two sliders move it to the pixel.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from html import escape
from pathlib import Path, PureWindowsPath
from typing import Any

from micranet_helpers import zoo as zoos
from micranet_helpers.explore import saving
from micranet_helpers.explore.picture import overlay, overview, summary, tiles
from micranet_helpers.explore.session import COMBINATIONS, SCALINGS, THRESHOLDS, Choice, Session
from micranet_helpers.files.atomic import write_atomically
from micranet_helpers.maps import LAYERS, STRIDES
from micranet_helpers.plots.png import BLANK, levels, png

try:
    import ipywidgets as w
except ImportError as error:
    raise ImportError(
        f"The explorer's widgets need ipywidgets ({error}): pip install 'micranet-helpers[book]'."
    ) from error

OVERVIEW, TILE = 256, 88  # longer side of the overview, and side of a map, px of the screen
SLIM, WIDE = 310, 424  # widths of the two columns, px of the screen
CELLS = 10  # rows, and columns, in which the overview can be clicked
UPLOADS = Path("uploads")  # in the working directory
# Groups that are offered first, as in the original's application.
USUAL = ("MICRANet", "MICRANet-1:5", "MICRANet-finetuned")


def explore(zoo: str | Path = "", image: str | Path = "", **choices: Any) -> "Explorer":
    """Explore what a trained network sees in an image.

    Parameters
    ----------
    zoo : path, optional
        A zoo file; can also be chosen or uploaded in the explorer.
    image : path, optional
        An image, likewise.
    **choices
        Other choices to begin with, such as ``group="MICRANet-1:5"`` or ``threshold="triangle"``:
        see :class:`~micranet_helpers.explore.session.Choice`.

    Returns
    -------
    Explorer
        A widget, shown where it is a cell's last line.

    Raises
    ------
    TypeError, ValueError
        If a choice does not exist. What is wrong with the files is shown in the widget.

    Examples
    --------
    >>> explore("zoos/digits.hdf5", "canvas.png", how="mean")  # doctest: +SKIP
    """
    return Explorer(Choice(**{"zoo": zoo, "group": "", "image": image, **choices}))


class Explorer(w.VBox):
    """Show choices and what follows from them: the widget that :func:`explore` returns.

    Attributes
    ----------
    session : Session
        What is chosen, and all that follows from it, for code in the next cell.
    controls : dict of str to widget
        By the name of the choice.
    ticks, maps : list of widgets
        Tick box and picture of each layer.
    overview, picture, score : ipywidgets.Image
        The image with the crop's frame; the crop with the objects; the combined map.
    summary, message, saved : ipywidgets.HTML
        Number and area of the objects; what went wrong; what was saved.
    """

    def __init__(self, choice: Choice) -> None:
        super().__init__()
        self.session = Session("", "", "")
        self._quiet, self._mapped = False, None
        self.controls = _controls(choice)
        self.ticks = [w.Checkbox(layer in choice.layers, description=f"{layer} (1 : {stride})",
                                 tooltip=f"combine {layer}", indent=False, layout=_fitting())
                      for layer, stride in zip(LAYERS, STRIDES, strict=True)]  # fmt: skip
        self.maps = [_image(TILE) for _ in LAYERS]
        self.overview = _image(OVERVIEW)
        self.picture = _image(384)
        self.score = _image(192)
        self.opacity = w.FloatSlider(0.4, min=0, max=1, step=0.05, **_named("opacity"))
        self.summary, self.message, self.saved, self.reason = (w.HTML() for _ in range(4))
        self.code = w.Textarea(description="recipe", tooltip="recipe",
                               layout=w.Layout(width="auto", height="18em"))  # fmt: skip
        self.name = w.Text("explored/objects", description="save as", tooltip="save as",
                           continuous_update=False, layout=w.Layout(width="260px"))  # fmt: skip
        self.overwrite = w.Checkbox(description="overwrite", tooltip="replace old files",
                                    indent=False, layout=_fitting())  # fmt: skip
        self.grid, self.buttons = _click_grid(self.overview, self._centre), self._buttons()
        self.uploads = {name: w.FileUpload(multiple=False, description=f"upload {name}",
                                           tooltip=f"upload {name}", layout=w.Layout(width="150px"))
                        for name in ("zoo", "image")}  # fmt: skip
        self.children = self._arranged()
        self._watch()
        self._open_zoo(group=choice.group)
        if choice.cls is not None and choice.cls in dict(self.controls["cls"].options).values():
            self.controls["cls"].value = choice.cls

    def _buttons(self) -> dict[str, w.Button]:
        made = {}
        for name, suffix, save in (
            ("mask", ".tif", saving.save_mask), ("objects", ".csv", saving.save_objects),
            ("ROIs", ".zip", saving.save_rois), ("recipe", ".py", saving.save_recipe),
        ):  # fmt: skip
            made[name] = w.Button(description=f"save {name}", tooltip=f"save {name} as *{suffix}",
                                  layout=_fitting())  # fmt: skip
            made[name].on_click(partial(self._save, save, suffix))
        return made

    def _arranged(self) -> list[w.Widget]:
        """Arrange two columns, side by side where there is room: choices, and their results."""
        of, up = self.controls, self.uploads
        files = [_row(of["zoo"], up["zoo"], of["group"]),
                 _row(of["image"], up["image"], of["scaling"])]  # fmt: skip
        crop = [self.grid, *(of[name] for name in ("top", "left", "side", "pixel_size_um"))]
        layers = [w.VBox([picture, tick])
                  for picture, tick in zip(self.maps, self.ticks, strict=True)]  # fmt: skip
        steps = [of["how"], self.reason, *(of[name] for name in (
            "above", "sigma", "threshold", "level", "area", "split")), self.opacity]  # fmt: skip
        save = _row(self.name, *self.buttons.values(), self.overwrite)
        return [
            *files, self.message,
            _row(_column(SLIM, "Crop: click to move it", *crop),
                 _column(WIDE, "Maps of the class: tick those to combine", of["cls"],
                         _row(*layers))),
            _row(_column(SLIM, "From the maps to objects", *steps, _title("Combined map"),
                         self.score),
                 _column(WIDE, "Objects in the crop", self.picture, self.summary)),
            save, self.saved,
            w.Accordion([self.code], titles=("recipe as code, to paste in a notebook",)),
        ]  # fmt: skip

    def _watch(self) -> None:
        for name, control in self.controls.items():
            control.observe(self._open_zoo if name == "zoo" else self._refresh, "value")
        for control in (*self.ticks, self.opacity):
            control.observe(self._refresh, "value")
        for name, upload in self.uploads.items():
            upload.observe(partial(self._receive, name), "value")

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """Set controls without computing what follows."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Show errors as one sentence, and blank what they left out of date."""
        try:
            yield
        except Exception as error:  # a traceback would be lost in a log
            self.message.value = _warning(error)
            for picture in (self.picture, self.score, self.overview, *self.maps):
                picture.value = BLANK
            self.summary.value = self.code.value = ""
            self._mapped = None
            with suppress(Exception):
                self.overview.value = png(overview(self.session, OVERVIEW))

    def _open_zoo(self, _: Any = None, group: str = "") -> None:
        control = self.controls["group"]
        with self._reporting():
            with self._quietly():
                control.options = []
                control.options = names = _groups(self.controls["zoo"].value)
                if names:
                    control.value = group if group in names else names[0]
            self._refresh()

    def _refresh(self, _: Any = None) -> None:
        """Compute and show what follows from the controls."""
        if self._quiet:
            return
        with self._reporting():
            for name in ("zoo", "group", "image"):
                if not self.controls[name].value:
                    raise ValueError(f"Choose the {name}: a zoo with networks, then an image.")
            values = {name: control.value for name, control in self.controls.items()}
            ticks = zip(LAYERS, self.ticks, strict=True)
            ticked = tuple(layer for layer, tick in ticks if tick.value)
            cls = values.pop("cls")
            for name in ("side", "pixel_size_um"):
                values[name] = values[name] or None
            before = self.session.choice
            if before.group and (before.zoo, before.group) != (values["zoo"], values["group"]):
                values["side"] = None  # another network has its own
            self.session.choose(**values, layers=ticked, cls=None)
            self._follow_how()
            self._follow_place()
            self._follow_classes(cls)
            self._draw()
            self.message.value = self.saved.value = ""  # what was saved is not shown any more

    def _follow_how(self) -> None:
        """Offer what the network has, and disable what has no meaning then."""
        control, hows = self.controls["how"], self.session.hows
        with self._quietly():
            how = control.value if control.value in hows else hows[0]
            control.options, control.value = hows, how
        self.session.choose(how=how)
        marks, threshold = self.session.marks, self.session.choice.threshold
        maps = f"For maps only: {how} has a level of its own." if marks else ""
        for name, why in (
            ("above", "" if marks else "Maps have no level of their own: choose a threshold."),
            ("level", maps or ("" if threshold == "percentile" else "For percentile only.")),
            ("sigma", maps), ("threshold", maps),
        ):  # fmt: skip
            _disable(self.controls[name], why)
        for tick in self.ticks:
            _disable(tick, maps)
        self.reason.value = maps and escape(f"{maps[:-1]}: layers, smoothing, threshold.")

    def _follow_place(self) -> None:
        height, width = self.session.raw.shape[1:]
        top, left, side = self.session.place
        with self._quietly():
            for name, value, most in (("top", top, height - side), ("left", left, width - side)):
                self.controls[name].max, self.controls[name].value = most, value
            self.controls["side"].value = side
        shown = OVERVIEW / max(height, width)
        self.overview.layout.width = f"{width * shown:.0f}px"
        self.overview.layout.height = f"{height * shown:.0f}px"

    def _follow_classes(self, cls: int | None) -> None:
        with self._quietly():
            control = self.controls["cls"]
            control.options = []  # stays so if no class is predicted
            classes = self.session.classes
            control.options = [(name, number) for number, name in classes.items()]
            control.value = cls if cls in classes else self.session.cls
            self.session.choose(cls=control.value)

    def _draw(self) -> None:
        session = self.session
        self.overview.value = png(overview(session, OVERVIEW))
        maps = None if session.marks else session.maps
        if self._mapped is not maps:  # packing eight pictures takes its time
            shown = [BLANK] * len(LAYERS) if maps is None else map(png, tiles(maps))
            for picture, tile in zip(self.maps, shown, strict=True):
                picture.value = tile
            self._mapped = maps
        self.picture.value = png(overlay(session, self.opacity.value))
        self.score.value = png(levels(session.score))
        self.summary.value = escape(summary(session))
        self.code.value = saving.recipe(session) if session.masked else ""

    def _centre(self, down: float, right: float, _: Any = None) -> None:
        with self._reporting():
            height, width = self.session.raw.shape[1:]
            half = self.session.place[2] / 2
            with self._quietly():  # the sliders keep the crop inside
                self.controls["top"].value = round(down * height - half)
                self.controls["left"].value = round(right * width - half)
            self._refresh()

    def _receive(self, name: str, change: dict[str, Any]) -> None:
        with self._reporting():
            for file in change["new"]:
                self.controls[name].value = str(_keep(file["name"], bytes(file["content"])))

    def _save(self, save: Callable[..., None], suffix: str, _: Any = None) -> None:
        try:
            path = Path(self.name.value + suffix)
            path.parent.mkdir(parents=True, exist_ok=True)
            save(path, self.session, self.overwrite.value)
            self.saved.value = escape(f"Saved {path}.")
        except Exception as error:  # the pictures stay as they are
            self.saved.value = _warning(error)


def _controls(choice: Choice) -> dict[str, w.Widget]:
    """Make a control for each choice but the layers, by its name."""
    path = {"continuous_update": False, "layout": w.Layout(width="330px", max_width="98%")}
    moved = {"min": 0, "continuous_update": False}
    most = max(choice.top, choice.left, 1)
    return {
        "zoo": w.Text(choice.zoo, description="zoo", tooltip="zoo", **path),
        "group": w.Dropdown(options=[], **_named("group")),
        "image": w.Text(choice.image, description="image", tooltip="image", **path),
        "scaling": w.Dropdown(options=SCALINGS, value=choice.scaling, **_named("scaling")),
        "pixel_size_um": w.BoundedFloatText(choice.pixel_size_um or 0, min=0, max=1e6, step=0.01,
                                            **_named("pixel size, µm")),
        "top": w.IntSlider(choice.top, max=most, **moved, **_named("top, px")),
        "left": w.IntSlider(choice.left, max=most, **moved, **_named("left, px")),
        "side": w.BoundedIntText(choice.side or 0, min=0, max=2**16, step=STRIDES[-1],
                                 **_named("side, px")),
        "cls": w.Dropdown(options=[], **_named("class")),
        "how": w.Dropdown(options=COMBINATIONS, value=choice.how, **_named("combine by")),
        "above": w.FloatSlider(choice.above, min=min(-10, choice.above), max=max(10, choice.above),
                               step=0.1, **_named("above level")),
        "sigma": w.FloatSlider(choice.sigma, min=0, max=max(10, choice.sigma), step=0.5,
                               **_named("smoothing, px")),
        "threshold": w.Dropdown(options=THRESHOLDS, value=choice.threshold, **_named("threshold")),
        "level": w.FloatSlider(choice.level, min=0, max=100, step=0.5, **_named("percentile")),
        "area": w.BoundedIntText(choice.area, min=0, max=2**31, **_named("least area, px")),
        "split": w.BoundedIntText(choice.split, min=0, max=2**16, **_named("split, px (0: no)")),
    }  # fmt: skip


def _named(text: str) -> dict[str, Any]:
    # Without a tooltip of its own, a label shows "null" when pointed at.
    return {"description": text, "tooltip": text, "style": {"description_width": "8em"},
            "layout": w.Layout(max_width="98%")}  # fmt: skip


def _disable(control: w.Widget, why: str) -> None:
    control.disabled, control.tooltip = bool(why), why or control.description


def _row(*children: w.Widget) -> w.Box:
    return w.Box(children, layout=w.Layout(
        flex_flow="row wrap", align_items="flex-start", grid_gap="4px 12px"))  # fmt: skip


def _column(width: int, title: str, *children: w.Widget) -> w.VBox:
    return w.VBox([_title(title), *children],
                  layout=w.Layout(width=f"{width}px", max_width="100%"))  # fmt: skip


def _title(text: str) -> w.HTML:
    return w.HTML(f"<strong>{text}</strong>")


def _warning(error: Exception) -> str:
    return f"<strong>⚠ {escape(str(error) or type(error).__name__)}</strong>"


def _fitting() -> w.Layout:
    return w.Layout(width="auto")  # as wide as its text


def _image(side: int) -> w.Image:
    # No tooltip: the script of ipywidgets 8 fails on that of a picture, and shows none of it.
    layout = w.Layout(width=f"{side}px", height=f"{side}px", object_fit="contain")
    return w.Image(value=BLANK, format="png", layout=layout)


def _click_grid(below: w.Image, clicked: Callable[..., None]) -> w.GridBox:
    """Lay a picture and transparent buttons in the same cell of a grid."""
    same = "1 / 1 / 2 / 2"
    below.layout.grid_area = same
    style, layout = w.ButtonStyle(button_color="transparent"), _bare(width="auto", height="auto")
    buttons = []
    for cell in range(CELLS**2):
        down, right = (cell // CELLS + 0.5) / CELLS, (cell % CELLS + 0.5) / CELLS
        where = f"crop here: {down:.0%} down, {right:.0%} right"
        button = w.Button(tooltip=where, style=style, layout=layout)
        button.tabbable = False  # a hundred stops; the sliders do the same
        button.on_click(partial(clicked, down, right))
        buttons.append(button)
    equal = f"repeat({CELLS}, minmax(0, 1fr))"
    cells = w.GridBox(buttons, layout=_bare(
        grid_area=same, grid_template_columns=equal, grid_template_rows=equal, grid_gap="0",
        height="0"))  # else lines of text make it higher than the picture
    cells.layout.min_height = "100%"
    return w.GridBox([below, cells], layout=w.Layout(
        grid_template_columns="max-content", grid_template_rows="max-content"))  # fmt: skip


def _bare(**more: str) -> w.Layout:
    return w.Layout(margin="0", padding="0", border="none", min_width="0", min_height="0", **more)


def _groups(path: str) -> list[str]:
    """List the groups of a zoo that hold networks, the likeliest to be wanted first."""
    found = {row["group"] for row in zoos.contents(path) if row["folds"]} if path else ()
    return sorted(found, key=lambda name: (
        not name.startswith("MICRANet"), name not in USUAL, name))  # fmt: skip


def _keep(name: str, content: bytes) -> Path:
    """Write an uploaded file to the folder of uploads, whatever folder its name claims."""
    name = PureWindowsPath(name).name  # knows both kinds of slashes
    if not name.strip(". "):
        raise ValueError("The uploaded file has no name: rename it first.")
    path = UPLOADS / name
    if path.exists() and path.read_bytes() != content:
        raise FileExistsError(f"{path} exists and is another file: rename one of them.")
    UPLOADS.mkdir(exist_ok=True)
    write_atomically(path, content)
    return path
