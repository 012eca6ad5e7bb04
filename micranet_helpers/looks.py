"""Where an image itself shows a cell: evidence says where about, the image says where exactly.

Three lines of cells have each their own look. Masks of validation frames chose it: the chapter on
cells tells how.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.filters import threshold_li

from micranet_helpers.data import ctc
from micranet_helpers.data.dataset import Sample

NO = -10.0
"""Evidence of a pixel that is certainly none of a cell, a logit."""


def rises(image: NDArray[np.floating]) -> NDArray[np.floating]:
    """Tell how far each pixel rises above its surroundings, on a logarithmic scale.

    Parameters
    ----------
    image : ndarray, float, (H, W)
        Grey levels.

    Returns
    -------
    ndarray, float, (H, W)
        Logarithm of the difference of two Gaussians of 1.5 and 20 px.
    """
    local = gaussian_filter(image, 1.5) - gaussian_filter(image, 20)
    return np.log(np.maximum(local, 0) + 0.01)


def varies(image: NDArray[np.floating]) -> NDArray[np.floating]:
    """Tell how much grey levels vary around each pixel, on a logarithmic scale.

    Parameters
    ----------
    image : ndarray, float, (H, W)
        Grey levels.

    Returns
    -------
    ndarray, float, (H, W)
        Logarithm of the standard deviation under a Gaussian of 1.5 px.
    """
    variance = gaussian_filter(image**2, 1.5) - gaussian_filter(image, 1.5) ** 2
    return np.log(np.sqrt(np.maximum(variance, 0)) + 0.001)


LOOKS: dict[str, Callable[[NDArray], NDArray]] = {
    "Fluo-N2DL-HeLa": rises, "PhC-C2DL-PSC": rises, "Usiigaci": varies,
}  # fmt: skip
"""What tells the cells of a line from the ground."""


def guided(
    sample: Sample, score: NDArray[np.floating], lines: Sequence[str] = ctc.DRAWN
) -> NDArray[np.floating]:
    """Keep the evidence for cells where the image shows something; elsewhere say no.

    Parameters
    ----------
    sample : Sample
        A frame; its first channel is looked at.
    score : ndarray, float, (2 L, H, W)
        Evidence of the L lines, cell and contact in turn.
    lines : sequence of L str
        Their names, some of :data:`LOOKS`.

    Returns
    -------
    ndarray, float, (2 L, H, W)
        A copy; contacts are as they were.

    References
    ----------
    Li & Lee 1993 (the threshold), doi 10.1016/0031-3203(93)90115-D.
    """
    score = score.copy()
    for k, line in enumerate(lines):
        look = LOOKS[line](sample.pixels[0])
        score[2 * k][look <= threshold_li(look)] = NO
    return score
