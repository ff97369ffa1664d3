"""A quick look at a folder or table of images, before settings are chosen."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from semimae.data.images import decoding_error, pillow_warnings
from semimae.ingest.datasets import DATASETS
from semimae.options.data import DataConfig
from semimae.types import UserError

SAMPLE = 100  # images to open, evenly spaced


class Survey(NamedTuple):
    """What a quick look at the images shows."""

    class_names: list[str]
    counts: dict[str, int]  # images per split
    num_labeled: int  # training images with a label
    fewest: int  # labeled training images in the smallest class
    shorter_side: int  # in pixels, median over the opened images
    is_gray: bool  # whether all opened images are
    num_opened: int
    num_unreadable: int  # among the opened images
    num_skipped: int  # files and folders that are not images


def survey(dataset: str, config: DataConfig, root: Path) -> Survey:
    """Look at the images of a dataset: the names of all, and the pixels of some.

    Args:
        dataset: ``imagefolder`` or ``csv``.
        config: Gives the table, for ``csv``.
        root: The folder that contains the images.

    Raises:
        UserError: If the layout is wrong, or none of the sampled images can be opened.
    """
    source = DATASETS[dataset](root, config)
    places = np.linspace(0, len(source.names) - 1, min(SAMPLE, len(source.names))).astype(int)
    sides, gray, reasons = [], [], []
    with pillow_warnings():
        for place in places.tolist():
            try:
                with source.open(place) as image:
                    sides.append(min(image.size))
                    image.thumbnail((32, 32))
                    pixels = np.asarray(image.convert("RGB")).astype(int)
                    gray.append(bool((np.ptp(pixels, axis=-1) <= 2).all()))
            except Exception as error:  # damaged data can make Pillow raise any exception
                reasons.append(f"{source.names[place]} ({decoding_error(error)})")
    if not sides:
        raise UserError(
            f"none of {len(places)} sampled images in {root} can be opened: {reasons[0]}."
        )
    labels = np.array(source.labels)
    splits = np.array(source.splits)
    labeled = labels[(splits == "train") & (labels >= 0)]
    return Survey(
        class_names=source.class_names,
        counts={
            split: int(n) for split, n in zip(*np.unique(splits, return_counts=True), strict=True)
        },
        num_labeled=len(labeled),
        fewest=int(np.bincount(labeled, minlength=len(source.class_names)).min()),
        shorter_side=int(np.median(sides)),
        is_gray=all(gray),
        num_opened=len(places),
        num_unreadable=len(reasons),
        num_skipped=len(source.skipped),
    )
