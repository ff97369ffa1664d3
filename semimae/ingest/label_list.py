"""Lists of labeled images that others have published, such as those of ImageNet's 1% and 10%."""

import gzip
import hashlib
import io
import zlib
from pathlib import Path

import numpy as np

from semimae.data.store import Prepared, Rows
from semimae.types import UserError

_LARGEST = 2**28  # bytes; a name for each image of ImageNet has a tenth of it


def match_names(path: Path, prepared: Prepared, train: Rows) -> tuple[Rows, tuple[int, int], str]:
    """Find the training images that a list names, comparing names without their folders.

    Returns:
        Their rows, sorted; how many names were found and how many there are; "NAME sha256:HEX",
        the digest being that of the uncompressed list.

    Raises:
        UserError: If the list cannot be read, names no training image, or names two at once.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            with gzip.open(io.BytesIO(content)) as file:  # a small file may hold a huge one
                content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise UserError(f"data.labeled_list={path} holds more than {_LARGEST} bytes.")
        lines = {line.strip() for line in content.decode("utf-8-sig").splitlines()} - {""}
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise UserError(
            f"data.labeled_list={path} cannot be read ({reason}); give a text file or .gz of one."
        ) from error
    wanted = {line.rpartition("/")[2]: line for line in sorted(lines)}
    found: dict[str, int] = {}
    for row in train.tolist():
        name = prepared.names[row].rpartition("/")[2]
        if name not in wanted:
            continue
        if name in found or len(wanted) < len(lines):
            raise UserError(
                f"{path.name}: {name} is ambiguous, as several images share a name without folder; "
                "rename them."
            )
        found[name] = row
    if not found:
        raise UserError(
            f"{path.name} names no training image: it has {min(wanted, default='nothing')!r}, "
            f"the dataset has {prepared.names[train[0]]!r}; give a list of this dataset's images."
        )
    digest = hashlib.sha256(content).hexdigest()[:12]
    return (
        np.array(sorted(found.values()), dtype=np.int64),
        (len(found), len(wanted)),
        f"{path.name} sha256:{digest}",
    )
