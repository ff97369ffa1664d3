"""Drawings that consist of images."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from pipeline.reporting.plotting import MUTED, contact_sheet, draw_grid, draw_panels


def picture_rows(rows: Mapping[str, NDArray[np.uint8]]) -> str:
    """Draw rows of small images."""

    def paint(all_axes: list[Axes]) -> None:
        for axes, (name, images) in zip(all_axes, rows.items(), strict=True):
            axes.imshow(contact_sheet(images), interpolation="none")
            axes.set_axis_off()
            axes.set_title(name, loc="left", color=MUTED, fontsize=9, pad=4)

    return draw_panels(paint, len(rows), 0.9 * len(rows))


def titled_pictures(pictures: Sequence[NDArray[np.uint8]], titles: Sequence[str]) -> str:
    """Draw images ``[H, W, C]`` in rows of four, each under its title."""

    def paint(all_axes: list[Axes]) -> None:
        for axes in all_axes:
            axes.set_axis_off()
        for axes, picture, title in zip(all_axes, pictures, titles, strict=False):
            axes.imshow(contact_sheet(picture[None]), interpolation="none")
            axes.set_title(title, color=MUTED, fontsize=8, pad=3)

    return draw_grid(paint, -(-len(pictures) // 4), 4)
