"""Images: what the headline makes of test images, and what MIM branches see and predict."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.reporting.analysis import Analysis
from pipeline.reporting.blocks import Block, Picture, Pictures, Text
from pipeline.reporting.headline import class_names
from pipeline.thumbnails import picture_of
from pipeline.workspace import RECONSTRUCTIONS
from semimae.evaluation.metrics import MOST, Example

_SIDE = 56  # of a reconstructed image, in pixels


def predictions(a: Analysis) -> list[Block]:
    """Show test images: surely wrong, hardly decided, and of each pair that is confused."""
    run = a.evidence.headline
    if run is None or not run.examples:
        return []
    names = class_names(a, len(run.scores["classifier"].per_class))
    wrong = sorted((e for e in run.examples if e.true != e.predicted), key=lambda e: -e.confidence)
    seen = {i for e in run.examples for i in (e.true, e.predicted)}

    def shown(e: Example) -> Picture:
        true, predicted = names[e.true], names[e.predicted]
        title = true if true == predicted else f"{true} \N{RIGHTWARDS ARROW} {predicted}"
        return Picture(e.png, title, f"{100 * e.confidence:.0f}%, {e.name}", true, predicted)

    words = (
        "Test images as the headline run classifies them. Below each image are its class, the "
        "class that was predicted if that is another one, and the probability of the prediction. "
        "Labels that look wrong here may be wrong."
    )
    unsure = sorted(run.examples, key=lambda e: e.confidence)[:MOST]
    groups = (
        ("mistakes", "Most confident mistakes", wrong[:MOST]),
        ("uncertain", "Least certain", unsure),
        ("confused", "One image for each pair of confused classes", wrong[MOST:]),
    )
    classes = [name for i, name in enumerate(names) if i in seen]
    pictures = [
        Pictures(n, title, [*map(shown, some)], classes) for n, title, some in groups if some
    ]
    return [Text(words), *pictures]


def reconstructions(a: Analysis) -> list[Block]:
    """Show originals, what the encoder saw, and reconstructions, at each mask ratio."""
    fraction = a.main.best.label_fraction if a.grid else None
    shown = [s.first for s in a.grid if s.label_fraction == fraction]
    headline = a.evidence.headline
    if headline and headline.cell_id not in {run.cell_id for run in a.evidence.grid}:
        shown.append(headline)
    blocks: list[Block] = []
    for run in shown:
        path = run.folders[0] / RECONSTRUCTIONS
        if run.cell is None or run.cell.mim is None or not path.is_file():
            continue
        with np.load(path) as file:
            rows = [file[name] for name in ("original", "masked", "reconstructed")]
        error = np.abs(rows[0].astype(float) - rows[2]).mean()
        detail = f"Mean absolute error: {error:.1f} of 255 gray levels. Seed {run.seed}."
        name = f"reconstructions_{run.method}_{run.mask_ratio:g}_{run.variant}_{run.cell_id}"
        sheet = Picture(_sheet(rows), run.setting, detail)
        blocks.append(Pictures(name, run.setting, [sheet], wide=True))
    words = (
        "Images that the model has not seen, in three rows: as they are, with the hidden patches "
        "in gray, and with the hidden patches predicted. For each setting, the first seed is shown."
    )
    return [Text(words if blocks else ""), *blocks]


def _sheet(rows: Sequence[NDArray[np.uint8]]) -> str:
    """Put rows of images ``[N, H, W, C]`` below each other, as a PNG in base64."""
    gap, (number, height, width, _) = 4, rows[0].shape
    zoom = max(1, -(-_SIDE // max(height, width)))
    tall, wide = height * zoom + gap, width * zoom + gap
    sheet = Image.new("RGBA", (number * wide - gap, len(rows) * tall - gap))
    for y, images in enumerate(rows):
        for x, pixels in enumerate(images):
            tile = picture_of(pixels).resize((wide - gap, tall - gap), Image.Resampling.NEAREST)
            sheet.paste(tile, (x * wide, y * tall))
    file = io.BytesIO()
    sheet.save(file, "png")
    return base64.b64encode(file.getvalue()).decode()
