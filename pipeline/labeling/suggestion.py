"""What goes out to be labeled."""

from typing import NamedTuple


class Suggestion(NamedTuple):
    """An image to label, and what the model thinks of it."""

    path: str  # relative to the folder of the images
    rank: int  # 1 is the most useful
    guess: str  # class
    confidence: float
