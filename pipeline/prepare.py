"""Stage ``prepare``: read and check every image once."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.outside import check_weights
from pipeline.progress import progress
from pipeline.workspace import PREPARED, dvc_root
from semimae.options.params import Params


def prepare(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = PREPARED,
) -> None:
    """Check every image of the dataset; report anything unusual.

    Each image gets a fingerprint. Small ones are packed into one array; large ones stay in place.

    Example: python -m pipeline prepare
    """
    from pipeline.summary import summary
    from semimae.data.store import resolve_root
    from semimae.ingest.findings import Findings
    from semimae.ingest.prepare import prepare as prepare_images

    params = Params.read()
    root = resolve_root(params.data.root, dvc_root())
    check_weights(params, root)
    with progress(params.dataset, total=None) as update:
        info = prepare_images(
            params.dataset,
            params.data,
            root,
            out,
            lambda done, total: update(done, total=total),
        )
    Path("dataset.json").write_bytes((out / "dataset.json").read_bytes())  # see dvc.yaml
    typer.echo(summary(info, Findings.read(out), out))
