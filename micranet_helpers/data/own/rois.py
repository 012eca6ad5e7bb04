"""Read the ROIs of ImageJ and Fiji."""

import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import roifile

from micranet_helpers.data.own.annotations import Annotations
from micranet_helpers.data.own.shapes import Shape, ellipse, from_folder, loop_of

MOST_BYTES = 2**28  # of the unpacked ROIs of an image


def read_rois(folder: str | Path, kind: str | None = None) -> Annotations:
    """Read ImageJ ROIs: ``NAME.zip`` of the ROI manager, or ``NAME.roi``, of an image ``NAME``.

    Rectangles, ovals, polygons, freehand and compound areas are read, with holes.

    Parameters
    ----------
    folder : path
        Holds the ROI files.
    kind : str, optional
        The class of all ROIs. By default it is the name of the ROI up to the first ``-``. An
        image without objects needs a ``NAME.zip`` that holds nothing, or a table of labels.

    Returns
    -------
    Annotations
        Filled areas. Classes are in alphabetical order.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such folder or file in it, a file is damaged, or a ROI is no area or has
        only the name that ImageJ gave it.
    """
    return from_folder(
        folder, (".zip", ".roi"), lambda path: (None, _roi_files(path)), partial(_roi, kind)
    )


def _roi_files(path: Path) -> Iterator[tuple[str, tuple[bytes, str, str]]]:
    """Read the ROIs of a file: how to call each, its content, its name, and that of its image."""
    if path.suffix.lower() == ".roi":
        # ImageJ names a single ROI by its file.
        yield f"the ROI {path.stem}", (path.read_bytes(), "", path.stem)
        return
    with zipfile.ZipFile(path) as archive:
        # Macs add a hidden twin "._NAME" to each file.
        members = [item for item in archive.infolist() if item.filename.lower().endswith(".roi")
                   and not Path(item.filename).name.startswith("._")]
        if len(members) < len(archive.infolist()) and not members:
            raise ValueError("it holds no .roi file.")
        if sum(item.file_size for item in members) > MOST_BYTES:
            raise ValueError("it unpacks to more than 256 MiB.")
        for item in members:
            name = Path(item.filename).stem
            yield f"the ROI {name}", (archive.read(item), name, path.stem)


def _roi(kind: str | None, found: tuple[bytes, str, str], where: str) -> Shape:
    """Read a ROI that is an area and names its class."""
    data, name, image = found
    roi = roifile.ImagejRoi.frombytes(data)
    where = f"the ROI {roi.name}" if roi.name else where
    areas = {"POLYGON", "RECT", "OVAL", "FREEHAND", "TRACED"}
    if roi.roitype.name not in areas or roi.subtype.name in ("TEXT", "IMAGE"):
        raise ValueError(f"{where} is no area: outline the object instead.")
    if roi.options & roifile.ROI_OPTIONS.SPLINE_FIT:
        raise ValueError(f"{where} is a fitted spline: in ImageJ, Edit > Selection > Interpolate.")
    if roi.roitype.name == "RECT" and roi.rounded_rect_arc_size:
        raise ValueError(f"{where} has rounded corners: draw it as a polygon.")
    if max(roi.z_position, roi.t_position) > 1:
        raise ValueError(f"{where} is of another plane of a stack: save each plane's ROIs apart.")
    own_name = roi.name or name  # an unnamed one is called by its place, or its file
    kind = kind or ("" if own_name == image else own_name.split("-")[0].strip())
    if not kind or kind.isdecimal():
        raise ValueError(f"{where} names no class: rename it 'class-1', or pass kind='class'.")
    return Shape(kind, [loop_of(loop, where) for loop in _paths(roi) or [()]], holes=True)


def _paths(roi: roifile.ImagejRoi) -> Any:
    """Find the outlines of a ROI, points x, y."""
    if roi.subpixelrect and roi.roitype.name in ("RECT", "OVAL"):
        edges = [[roi.xd, roi.yd], [roi.xd + roi.widthd, roi.yd + roi.heightd]]
    else:
        edges = [[roi.left, roi.top], [roi.right, roi.bottom]]
    if roi.roitype.name == "OVAL":
        return [ellipse(np.mean(edges, 0), np.ptp(edges, 0) / 2)]
    if roi.roitype.name == "RECT" and not roi.composite:
        (left, top), (right, bottom) = edges
        return [[(left, top), (right, top), (right, bottom), (left, bottom)]]
    return roi.coordinates(multi=True)
