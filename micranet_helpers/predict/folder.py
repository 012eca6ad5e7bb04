"""Find objects in all images of a folder; a run that was stopped goes on where it was."""

import hashlib
import io
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from PIL import Image
from pooch import file_hash
from tqdm import tqdm

from micranet_helpers import zoo
from micranet_helpers.data.own.annotations import image_files
from micranet_helpers.data.own.answers import Known, matched, read_answers
from micranet_helpers.files import series
from micranet_helpers.files.atomic import remove_parts, write_atomically
from micranet_helpers.files.large import is_large
from micranet_helpers.files.lock import alone
from micranet_helpers.files.microscopes import READERS
from micranet_helpers.files.provenance import provenance
from micranet_helpers.files.series import Plane, file_of
from micranet_helpers.files.spread import spread
from micranet_helpers.files.tables import csv_bytes
from micranet_helpers.maps.outlines import geojson, roi_set, rois
from micranet_helpers.plots.colours import class_colours
from micranet_helpers.plots.images import outlined
from micranet_helpers.predict import large, objects, report, ways
from micranet_helpers.zoo.usage import check, facts, misfit, wrong_size

LEAST = 9  # area of an object, px, where nothing is known
COLUMNS, ROWS = ("id", "class", "area_px"), 10_000  # of the table of objects; written at once
STATE = "done.json"  # of a file: its rows of the summary, and what they depend on
FAILURES = (ValueError, TypeError, RuntimeError, MemoryError, PermissionError, FileNotFoundError)
"""What a broken image raises; a full disk is another OSError."""


@dataclass(frozen=True, eq=False)
class Job:
    """Hold what a run needs to know."""

    out: Path
    folder: Path
    files: dict[str, Path]
    networks: ways.Networks
    said: dict[str, list[Known]]
    source: str  # checksum of the zoo
    pixel_size_um: float | None  # of images that do not say it

    def place(self, name: str) -> Path:
        """Return the folder of the results of a file."""
        return self.out / "images" / name

    @property
    def width(self) -> float | None:
        """Usual width of an object, px."""
        usage = self.networks.usage
        return usage.object_px and usage.object_px / usage.magnification

    @property
    def area(self) -> int:
        """Least area of an object, px; where its width is not known, a third of a crop's side."""
        usage = self.networks.usage
        width = self.width or (usage.side or 0) / 3 / usage.magnification
        return objects.least_area(width) if width else LEAST

    def key(self, *more: object) -> str:
        """Make a checksum of all that a result depends on."""
        own = self.source, self.networks.usage.text, self.area, version("micranet-helpers"), more
        return hashlib.sha256(json.dumps(own, default=str).encode()).hexdigest()


def predict(
    folder: str | Path, model: str | Path, out: str | Path, *, group: str | None = None,
    answers: Iterable[str | Path] = (), pixel_size_um: float | None = None,
    scheduler: str | None = None, dry_run: bool = False, **changes: Any,
) -> Path | None:  # fmt: skip
    """Find the objects in all images of a folder, and write them for other programs.

    Each image, and each plane of a stack, gets under ``out/images/``: a label mask (OME-TIFF), its
    objects (CSV, ROIs of ImageJ, GeoJSON of QuPath) and an overlay (PNG). One of more than
    :data:`~micranet_helpers.files.large.WHOLE` px (TIFF, OME-Zarr) is worked on block by block in
    less than 2 GB of memory: scores and label mask are written as OME-Zarr 0.5, outlines are left
    out, and answers about it are not used. The run gets ``summary.csv``, ``least-certain.png``,
    ``provenance.json`` and ``report.html``. Called again, it does only what is new or has changed.

    Parameters
    ----------
    folder : path
        Images, also in sub-folders: TIFF, also stacks, OME-TIFF, PNG, JPEG or BMP; with the extra
        ``microscopes`` ND2, LIF and CZI; with the extra ``large`` OME-Zarr (folders ``*.zarr``).
    model : path or str
        A zoo, or ``"shipped:NAME"``, see :func:`micranet_helpers.zoo.shelf.locate`. Classes that
        are no objects, if it says so, are left out.
    out : path
        Folder of the results.
    group : str, optional
        Of the zoo; by default the first MICRANet, and the first U-Net as its self-trained student.
    answers : iterable of path
        Yes and no about some images, as :func:`micranet_helpers.data.own.answers.read_answers`
        reads them: the way that agrees best is used. Else it is that of the zoo.
    pixel_size_um : float, optional
        Side of a pixel, µm, of images that do not say it.
    scheduler : str, optional
        Work on several images at once by Dask (extra ``large``): ``"local"``, a process for each
        core, or the address of a scheduler, e.g. ``"tcp://10.0.0.1:8786"``, whose workers see the
        same paths. A script that says "local" needs ``if __name__ == "__main__":``. Images of a
        worker that is lost are done by others.
    dry_run : bool
        Only say what would be done, and write nothing.
    **changes
        What the zoo does not say, or what is to be otherwise: fields of
        :class:`~micranet_helpers.zoo.usage.Usage`, e.g. ``scaling`` or ``magnification``.

    Returns
    -------
    Path or None
        The report; None for a dry run.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no image, no such zoo or no usable answer, or another run has the folder.
    OSError
        If a result cannot be written.
    """
    folder, out = Path(folder).expanduser(), Path(out).expanduser()
    inside = out.resolve()
    files = {path.relative_to(folder).as_posix(): path for path in image_files(folder, READERS)
             if inside not in path.resolve().parents}  # fmt: skip
    if not files:
        raise ValueError(f"{folder} holds no image: give a folder of TIFF, PNG or JPEG files.")
    path = zoo.locate(model)
    networks = ways.objects_only(ways.open_zoo(path, group, **changes))
    said = read_answers(answers)
    names = {*files, *(plane.relative_to(folder).as_posix() for path in files.values()
                       for plane in series.members(path))} if said else ()  # fmt: skip
    said = matched(said, networks.usage.classes, sorted(names))
    job = Job(out, folder, files, networks, said, file_hash(path), pixel_size_um)
    if dry_run:
        _tell(job)
        return None
    out.mkdir(parents=True, exist_ok=True)
    with alone(out):
        return _run(job, scheduler)


def _tell(job: Job) -> None:
    """Say what would be done."""
    there, count = job.networks.ways, sum(map(len, job.said.values()))
    begun = sum((job.place(name) / STATE).is_file() for name in job.files)
    print(f"{len(job.files)} images into {job.out}; {begun} of them have results there already")
    print("way:", f"chosen by {count} answers among {', '.join(there)}" if count else there[0])
    for name, value in facts(job.networks.usage):
        print(f"{name}: {value}")
    for name, path in job.files.items():
        if is_large(path):
            print(f"{name} is large: block by block, written as OME-Zarr")
        if axes := series.axes_of(path):
            print(f"{name} is a stack along {axes}: each plane is an image")


def _run(job: Job, scheduler: str | None) -> Path:
    job, judged = _judged(job)
    way = judged[0]["way"] if judged else job.networks.ways[0]
    done = spread(partial(_image, job, way), job.files, scheduler,
                  lambda name, why: [{"file": name, "error": why}])  # fmt: skip
    found = dict(tqdm(done, "Finding objects", len(job.files), unit=" images"))
    rows = [row for name in job.files for row in found[name]]
    areas = [row["median area, px"] for row in rows if row.get("objects")]
    width = float(2 * np.sqrt(np.median(areas or [0]) / np.pi))
    sized = "" if width and way.startswith("plain") else wrong_size(job.networks.usage, width)
    notes = [sized, *(row.get("note") for row in rows)]
    notes = [f"{note} ({count} ×)" if count > 1 else note
             for note, count in Counter(notes).items() if note]  # fmt: skip
    about = [("way", way), ("least area, px", str(job.area)),
             ("width found, px", f"{width:.3g}"), *facts(job.networks.usage)]  # fmt: skip
    made = {"parameters": dict(about), "network": job.source, **provenance(),
            "images": {row["file"]: row.get("sha256") for row in rows}}  # fmt: skip
    write_atomically(job.out / "provenance.json", json.dumps(made, indent=1).encode())
    return report.write(job.out, rows, notes, about, judged)


def _judged(job: Job) -> tuple[Job, list[dict[str, Any]]]:
    """Choose levels and compare the ways by the answers, or read what was found before."""
    if not job.said:
        return job, []
    key = job.key(job.said, [_digest(file_of(job.folder / name)) for name in job.said])
    stored = _stored(job.out / "ways.json", key)
    if not stored:
        networks = ways.with_levels(job.networks, _answered(job), job.said)
        rows = ways.judge(networks, _answered(job), job.said, job.area)
        stored = {"key": key, "levels": networks.usage.levels, "rows": rows}
        _store(job.out / "ways.json", **stored)
    usage = replace(job.networks.usage, levels=stored["levels"])
    return replace(job, networks=replace(job.networks, usage=usage)), stored["rows"]


def _answered(job: Job) -> Iterator[tuple[str, NDArray[Any]]]:
    """Read the images about which there are answers; those that are broken are said later."""
    for name in tqdm(job.said, "Comparing ways", unit=" images"):
        with suppress(*FAILURES):
            if is_large(file_of(job.folder / name)):
                continue
            image = series.read_plane(job.folder / name).image
            check(job.networks.usage, image, job.networks.channels)
            yield name, image


def _image(job: Job, way: str, name: str) -> list[dict[str, Any]]:
    """Find the objects of a file, unless it is done; a row for each plane, and for a failure."""
    rows: dict[str, dict[str, Any]] = {}
    try:
        path, place = job.files[name], job.place(name)
        digest = _digest(path)
        key = job.key(way, digest, job.pixel_size_um)
        before = _stored(place / STATE, key) or {"rows": {}}
        if all((job.out / row["picture"]).is_file() for row in before["rows"].values()):
            rows = before["rows"]
        if rows and before.get("complete"):
            return [*rows.values()]
        for plane in [Plane("", None)] if is_large(path) else series.planes(path):
            if plane.name not in rows:
                rows[plane.name] = {**_plane(job, way, name, plane, key), "sha256": digest}
                _store(place / STATE, rows=rows, key=key)
        _store(place / STATE, rows=rows, key=key, complete=True)
        for work in place.glob("*.work"):
            shutil.rmtree(work)
        remove_parts(place)  # of a worker that was killed
    except FAILURES as error:
        return [*rows.values(), {"file": name, "error": " ".join(str(error).split())}]
    return [*rows.values()]


def _plane(job: Job, way: str, name: str, plane: Plane, key: str) -> dict[str, Any]:
    """Find and write the objects of a plane, large without its pixels; its row of the summary."""
    usage, place, image = job.networks.usage, job.place(name), plane.image
    own = series.pixel_size(job.files[name])  # before the work: it may refuse the image
    size = own or job.pixel_size_um
    stem = f"{Path(name).stem.removesuffix('.ome')}{plane.name and '-'}{plane.name}"
    if image is None:
        found = large.find(job.files[name], job.networks, way, job.area, job.width,
                           place / f"{stem}.ome.zarr", key, size)  # fmt: skip
    else:
        check(usage, image, job.networks.channels)
        masks, scores = ways.find(job.networks, image, [way])[way]
        found = objects.found_in(image, masks, scores, job.area, job.width)
    place.mkdir(parents=True, exist_ok=True)
    for end, data in _files(found, usage, size, outlines=image is not None).items():
        write_atomically(place / f"{stem}-{end}", data)
    counts = np.bincount(found.classes, minlength=len(usage.classes)).tolist()
    each = {f"objects, {cls}": n for cls, n in zip(usage.classes, counts, strict=True)}
    areas, scores = found.table[:, 0], found.table[:, 7]
    return {
        "file": f"{name}/{plane.name}".rstrip("/"), "error": "", "objects": len(areas),
        **(each if len(each) > 1 else {}), "covered, %": 100 * found.covered,
        "certainty": float(np.median(np.abs(scores))) if len(scores) else -found.highest,
        "median area, px": float(np.median(areas)) if len(areas) else 0.0,
        "note": misfit(usage, found.picture, own),
        "picture": (place / f"{stem}-overlay.png").relative_to(job.out).as_posix(),
    }  # fmt: skip


def _files(
    found: objects.Found, usage: zoo.Usage, size: float | None, outlines: bool
) -> dict[str, bytes]:
    """Make the files about objects by how their names end; without ``outlines`` only two."""
    colours = [[round(255 * x) for x in to_rgb(each)] for each in class_colours(usage.classes)]
    picture = Image.fromarray(outlined(found.picture, found.labels, colours))
    picture.save(overlay := io.BytesIO(), "PNG")
    table, measured = [], {}
    for start in range(0, max(1, len(found.table)), ROWS):
        rows = objects.rows_of(found, usage, size, start, start + ROWS)
        table.append(csv_bytes(rows, COLUMNS).split(b"\n", start > 0)[-1])  # one header
        measured |= {row["id"]: {name: row[name] for name in row if name not in ("id", "class")}
                     for row in rows if outlines}  # fmt: skip
    files = {"objects.csv": b"".join(table), "overlay.png": overlay.getvalue()}
    if not outlines:
        return files
    named = zip(found.labels, usage.classes, strict=True)
    return files | {
        "mask.ome.tif": objects.mask_bytes(found.labels, usage.classes, size),
        "rois.zip": roi_set(roi for each in named for roi in rois(*each)),
        "objects.geojson": geojson(found.labels, usage.classes, colours, measured),
    }


def _stored(path: Path, key: str) -> dict[str, Any] | None:
    """Read what an earlier run found, if it still holds."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("key") == key else None


def _store(path: Path, **state: Any) -> None:
    """Keep what was found for the next run."""
    write_atomically(path, json.dumps(state).encode())


def _digest(path: Path) -> str:
    """Make a checksum of a file; of an OME-Zarr, by the sizes and times of its many files."""
    if path.is_dir():
        about = sorted((str(each.relative_to(path)), each.stat().st_size, each.stat().st_mtime_ns)
                       for each in path.rglob("*") if each.is_file())  # fmt: skip
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()
    return file_hash(path)
