"""The forms in which images go out to be labeled and come back: csv, Label Studio, a page."""

from typing import NamedTuple


class Suggestion(NamedTuple):
    """An image to label, and what the model thinks of it."""

    path: str  # relative to the folder of the images
    rank: int  # 1 is the most useful
    guess: str  # class
    confidence: float
