"""Stage ``prepare``: read and check every image once."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.progress import progress
from pipeline.workspace import PREPARED, dvc_root
from semimae.params import Params


def prepare(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = PREPARED,
) -> None:
    """Check every image of the dataset, and take its fingerprint.

    Small images are packed into one array; large ones stay where they are.

    Example: python -m pipeline prepare
    """
    from semimae.data.prepare import prepare as prepare_images
    from semimae.data.store import resolve_root

    params = Params.read()
    root = resolve_root(params.data.root, dvc_root())
    with progress(params.dataset, total=None) as update:
        prepare_images(
            params.dataset,
            params.data,
            root,
            out,
            lambda done, total: update(done, total=total),
        )
    Path("dataset.json").write_bytes((out / "dataset.json").read_bytes())  # see dvc.yaml
