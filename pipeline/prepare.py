"""Stage ``prepare``: read and check every image once."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.progress import progress
from pipeline.workspace import PREPARED, dvc_root
from semimae.options.params import Params

_KINDS = {
    "train": "with a label",
    "unlabeled": "without",
    "val": "for validation",
    "test": "for the test",
}


def prepare(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = PREPARED,
) -> None:
    """Check every image of the dataset, and take its fingerprint.

    Small images are packed into one array; large ones stay where they are.

    Example: python -m pipeline prepare
    """
    from semimae.data.store import resolve_root
    from semimae.ingest.prepare import prepare as prepare_images

    params = Params.read()
    root = resolve_root(params.data.root, dvc_root())
    with progress(params.dataset, total=None) as update:
        info = prepare_images(
            params.dataset,
            params.data,
            root,
            out,
            lambda done, total: update(done, total=total),
        )
    Path("dataset.json").write_bytes((out / "dataset.json").read_bytes())  # see dvc.yaml
    images = ", ".join(f"{info.counts[s]:,} {kind}" for s, kind in _KINDS.items() if info.counts[s])
    skipped = f"; {info.num_skipped:,} left out, which cannot be read" if info.num_skipped else ""
    typer.echo(f"{params.dataset}: {info.num_classes:,} classes; images: {images}{skipped}.")
