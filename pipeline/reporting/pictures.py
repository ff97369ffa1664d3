"""Images: what the headline makes of test images, and what MIM branches see and predict."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.reporting.analysis import Analysis
from pipeline.reporting.blocks import Block, Picture, Pictures, Section, Text
from pipeline.reporting.compare import Setting, setting_of
from pipeline.reporting.headline import class_names
from semimae.evaluation.metrics import MOST, Example

_SIDE = 56  # of a reconstructed image, in pixels


def predictions_section(a: Analysis) -> Section:
    """Show test images: surely wrong, hardly decided, and of each pair that is confused."""
    headline = a.evidence.headline
    title = "Predictions to look at"
    if headline is None or not headline.details.examples:
        return Section("predictions", title)
    found: list[Example] = headline.details.examples
    names = class_names(a, len(headline.details.scores["classifier"].per_class))
    wrong = sorted((e for e in found if e.true != e.predicted), key=lambda e: -e.confidence)
    unsure = sorted(found, key=lambda e: e.confidence)[:MOST]

    def shown(e: Example) -> Picture:
        true, predicted = names[e.true], names[e.predicted]
        title = true if true == predicted else f"{true} \N{RIGHTWARDS ARROW} {predicted}"
        return Picture(e.png, title, f"{100 * e.confidence:.0f}%, {e.name}", (true, predicted))

    words = (
        "Test images of the headline's classifier. Under each stand its class, what it is taken "
        "for, and the probability of that. A label that looks wrong here may be wrong."
    )
    seen = {names[i] for e in found for i in (e.true, e.predicted)}
    classes = [name for name in names if name in seen]
    groups = {
        "mistakes": ("Most confident mistakes", wrong[:MOST]),
        "uncertain": ("Least certain", unsure),
        "confused": ("One image of each pair of classes that is confused", wrong[MOST:]),
    }
    pictures = [
        Pictures(name, heading, [shown(e) for e in some], classes)
        for name, (heading, some) in groups.items()
        if some
    ]
    return Section("predictions", title, [Text(words), *pictures])


def reconstructions_section(a: Analysis) -> Section:
    """Show originals, what the encoder saw, and reconstructions, at each mask ratio."""
    first = [runs[0] for s, runs in a.grid.items() if s.label_fraction == a.main_fraction]
    headline, known = a.evidence.headline, {run.cell_id for run in a.evidence.grid}
    extra = [headline] if headline and headline.cell_id not in known else []
    shown = [run for run in [*first, *extra] if run.details.reconstructions]
    blocks: list[Block] = []
    for run in shown:
        setting: Setting = setting_of(run)
        with np.load(run.details.reconstructions) as file:
            rows = [file[name] for name in ("original", "masked", "reconstructed")]
        error = np.abs(rows[0].astype(float) - rows[2]).mean()
        detail = f"Mean absolute error: {error:.1f} of 255 gray levels. Seed {run.seed}."
        name = f"reconstructions_{run.method}_{run.mask_ratio:g}_{run.variant}_{run.cell_id}"
        picture = Picture(_sheet(rows), setting.name, detail)
        blocks.append(Pictures(name, setting.name, [picture], wide=True))
    if not blocks:
        return Section("reconstructions", "Reconstructions")
    words = (
        "Images that the model has not seen, in three rows: as they are, with the hidden patches "
        "in gray, and with the hidden patches predicted. Each setting is shown by its first seed."
    )
    return Section("reconstructions", "Reconstructions", [Text(words), *blocks])


def _sheet(rows: Sequence[NDArray[np.uint8]]) -> str:
    """Put rows of images ``[N, H, W, C]`` below each other, as a PNG in base64."""
    gap, (number, height, width, _) = 4, rows[0].shape
    zoom = max(1, -(-_SIDE // max(height, width)))
    size = (number * (width * zoom + gap) - gap, len(rows) * (height * zoom + gap) - gap)
    sheet = Image.new("RGBA", size)
    for y, images in enumerate(rows):
        for x, pixels in enumerate(images):
            tile = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
            tile = tile.resize((width * zoom, height * zoom), Image.Resampling.NEAREST)
            sheet.paste(tile, (x * (width * zoom + gap), y * (height * zoom + gap)))
    file = io.BytesIO()
    sheet.save(file, "png")
    return base64.b64encode(file.getvalue()).decode()
