"""Stage ``prepare``: read and check every image once."""

from pathlib import Path

from pipeline.progress import progress
from pipeline.workspace import PREPARED, dvc_root
from semimae.params import Params


def prepare(out: Path = PREPARED) -> None:
    """Validate every image of the dataset, fingerprint it, and pack small images into one array.

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
