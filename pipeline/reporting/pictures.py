"""Images: what the classifier is surely wrong about, and what MIM branches see and predict."""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.reporting.blocks import (
    Entry,
    Figure,
    Figures,
    Section,
    Table,
    Text,
    number_columns,
    percent,
    text_columns,
)
from pipeline.reporting.compare import setting_of
from pipeline.reporting.evidence import Result
from pipeline.reporting.headline import class_names, headline_command
from pipeline.reporting.images import picture_rows, titled_pictures
from pipeline.reporting.runs import run_link
from pipeline.reporting.study import Study

_TITLE = 22  # letters over a small picture


def mistakes_section(study: Study) -> Section:
    """Show the test images that the headline's classifier is most sure and wrong about."""
    title = "Most confident mistakes"
    headline = study.evidence.headline
    if headline is None:
        words = "The headline run is not finished."
    elif not headline.mistakes:
        words = "The headline's classifier makes no mistake on the test set."
    else:
        words = (
            "Test images that the headline's classifier takes for another class, the surest first. "
            "True class, predicted class, and the probability that it gives the latter. A label "
            "that looks wrong here may be wrong."
        )
        return Section(
            "mistakes", title, [Text(words), Figures([_mistakes_figure(study, headline)])]
        )
    return Section("mistakes", title, [Text(words)])


def pictures_section(study: Study) -> Section:
    """Show originals, what the encoder saw, and reconstructions, at each mask ratio."""
    at_main = [r for s, r in study.grid.items() if s.label_fraction == study.main_fraction]
    shown = [results[0] for results in at_main if results[0].pictures]
    headline = study.evidence.headline
    grid_ids = {result.identity for result in study.evidence.grid}
    if headline and headline.pictures and headline.identity not in grid_ids:
        shown.append(headline)
    if not shown:
        words = (
            "No finished run has a MIM branch that predicts pixels, so there is nothing to show."
        )
        return Section("reconstructions", "Reconstructions", [Text(words)])
    words = (
        "Validation images: as they are, with the hidden patches in gray, and with the hidden "
        "patches predicted. First seed of each setting."
    )
    return Section(
        "reconstructions",
        "Reconstructions",
        [Text(words), Figures([_picture_figure(result) for result in shown])],
    )


def _mistakes_figure(study: Study, headline: Result) -> Figure:
    found = headline.mistakes
    names = class_names(study, len(headline.scores["classifier"].per_class))
    rows: list[list[Entry]] = [
        [
            m.name,
            names[m.true],
            names[m.predicted],
            percent(m.confidence),
            percent(m.true_probability),
        ]
        for m in found
    ]
    return Figure(
        name="mistakes",
        alt=f"{len(found)} test images, each under its true class, its predicted class and the "
        "confidence; the table has them in the same order.",
        caption="True class \N{RIGHTWARDS ARROW} predicted class, confidence in %.",
        svg=titled_pictures(
            [_decode(m.png) for m in found],
            [_mistake_title(names[m.true], names[m.predicted], m.confidence) for m in found],
        ),
        table=Table(
            "The same images, row by row.",
            [
                *text_columns("Image", "True class", "Taken for"),
                *number_columns("Confidence %", "Probability of the true class %"),
            ],
            rows,
            folded=True,
        ),
        command=headline_command(headline.cell),
        sources=[run_link(headline)],
    )


def _mistake_title(true: str, predicted: str, confidence: float) -> str:
    sure = f"{100 * confidence:.0f}%"
    one_line = f"{true} \N{RIGHTWARDS ARROW} {predicted}, {sure}"
    if len(one_line) <= _TITLE:
        return one_line
    room = _TITLE - 6
    shorter = [name if len(name) <= room else name[: room - 1] + "…" for name in (true, predicted)]
    return f"{shorter[0]} \N{RIGHTWARDS ARROW}\n{shorter[1]}, {sure}"


def _decode(png: str) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(base64.b64decode(png)), formats=["PNG"]) as image:
        pixels = np.asarray(image)
    return pixels.reshape(*pixels.shape[:2], -1)


def _picture_figure(result: Result) -> Figure:
    assert result.pictures is not None
    with np.load(result.pictures) as file:
        rows = {name: file[name] for name in ("original", "masked", "reconstructed")}
    setting = setting_of(result)
    error = np.abs(rows["original"].astype(float) - rows["reconstructed"]).mean(axis=(1, 2, 3))
    table_rows: list[list[Entry]] = [[str(i + 1), f"{e:.1f}"] for i, e in enumerate(error)]
    return Figure(
        name=f"reconstructions_{setting.method}_{setting.mask_ratio:g}",
        alt=f"Images in three rows for {setting.name}: original, masked, reconstructed.",
        caption=f"{setting.name}, {result.labels}, seed {result.cell.seed}.",
        svg=picture_rows(rows),
        table=Table(
            "Mean absolute error over all pixels, in gray levels of 255.",
            number_columns("Image", "Error"),
            table_rows,
            folded=True,
        ),
        command=headline_command(result.cell),
        sources=[run_link(result)],
    )
