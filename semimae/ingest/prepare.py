"""Turn a dataset into a folder for the later stages: check, list, measure and pack images."""

import difflib
import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semimae.data.images import Progress
from semimae.data.store import COLUMNS, IMAGES, INFO, MANIFEST, DatasetInfo
from semimae.files import replaced_folder, write_csv, write_text
from semimae.ingest.datasets import DATASETS
from semimae.ingest.findings import beside, find, write_findings
from semimae.ingest.layout import check_root
from semimae.ingest.scan import Checked, check_images, moments, pack_and_count
from semimae.ingest.source import SPLITS, Source
from semimae.ingest.stratify import held_out_count, stratified_order
from semimae.ingest.write_cache import write_cache
from semimae.options.data import DataConfig
from semimae.types import UserError

BAD_IMAGES = "bad_images.csv"


def prepare(
    dataset: str, config: DataConfig, root: Path, out: Path, progress: Progress | None = None
) -> DatasetInfo:
    """Decode every image, then write ``out``: the same bytes for the same images and config.

    Nothing in ``out`` depends on the location of ``out`` or ``root``. Rows are sorted by split and
    name. Next to it, ``<out>.findings.json`` has what a person should know about the images, and
    ``<out>.skipped.csv`` lists skipped files.

    Args:
        dataset: A key of `DATASETS`.
        config: Size and channels of packed and cached images, and how to handle bad ones.
        root: Folder of the images, or where they are downloaded to.
        out: Folder to write or to replace.
        progress: Called with (done, total) in each pass: checking, caching if needed, then
            packing or measuring.

    Raises:
        UserError: If the dataset is missing or inconsistent, or if images cannot be decoded and
            ``on_bad_image`` is "fail"; ``<out>.bad_images.csv`` then lists all of them.
    """
    if dataset not in DATASETS:
        near = difflib.get_close_matches(dataset, DATASETS, n=1)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise UserError(f"dataset={dataset}; allowed: {', '.join(DATASETS)}{hint}")
    _refuse_foreign(out)
    report = progress or (lambda done, total: None)
    source = DATASETS[dataset](root, config)
    checked = check_images(source, config, report)
    if checked.bad and source.root is not None:
        check_root(Path(source.root))  # one message about a lost disk beats a thousand errors
    _report_bad(checked.bad, len(source.names), out, config)
    labels, splits = _labels_and_splits(source, checked, config)
    order = np.argsort([SPLITS.index(split) for split in splits.tolist()], kind="stable")
    rows, labels, splits = checked.rows[order], labels[order], splits[order]
    digests = [digest.tobytes() for digest in checked.digests[order]]
    names = [source.names[row] for row in rows.tolist()]
    classes = [*source.class_names, ""]  # label -1 is the last of them
    table = list(zip(names, [classes[i] for i in labels.tolist()], splits.tolist(), strict=True))
    found = find(
        source,
        checked,
        names=names,
        labels=labels,
        splits=splits,
        digests=digests,
        image_size=config.image_size,
    )
    with replaced_folder(out) as folder:
        packed = bool((checked.sizes <= config.pack_max_side).all())
        cache_size = None if packed else config.cache_size
        if cache_size is not None:
            write_cache(folder, source, config, rows, checked.sizes[order], report)
        images = _packed_file(folder / IMAGES, len(rows), config) if packed else None
        training = (splits == "train") | (splits == "unlabeled")
        histogram = pack_and_count(source, config, rows, training, images, report)
        mean, std = moments(histogram)
        if not all(std) and config.std is None:
            raise UserError(
                f"channel {std.index(0)} has the same value in all training images; set data.std."
            )
        info = DatasetInfo(
            name=source.name,
            fingerprint=_fingerprint(source.class_names, table, digests),
            num_classes=len(source.class_names),
            class_names=tuple(source.class_names),
            image_size=config.image_size,
            channels=config.channels,
            packed=packed,
            white_level=config.white_level,
            cache_size=cache_size,
            mean=mean,
            std=std,
            counts={split: int((splits == split).sum()) for split in SPLITS},
            num_skipped=len(checked.bad),
            duplicates_test_train=found.tested_elsewhere.count,
        )
        write_csv(folder / MANIFEST, COLUMNS, table)
        write_text(folder / INFO, info.model_dump_json(indent=2) + "\n")
        if checked.bad:
            write_csv(folder / BAD_IMAGES, ["path", "reason"], checked.bad)
    write_findings(out, found, source)
    return info


def _refuse_foreign(out: Path) -> None:
    if out.exists() and not (out / INFO).exists() and (out.is_file() or any(out.iterdir())):
        raise UserError(f"{out} was not written by `prepare`; remove it or choose another folder.")


def _report_bad(bad: list[tuple[str, str]], num_images: int, out: Path, config: DataConfig) -> None:
    report = beside(out, BAD_IMAGES)
    if not bad or config.on_bad_image == "skip":
        report.unlink(missing_ok=True)  # left by an earlier failure
        return
    write_csv(report, ["path", "reason"], bad)
    name, reason = bad[0]
    raise UserError(
        f"{len(bad)} of {num_images} images cannot be read, first: {name} ({reason}); "
        f"{report} lists all of them; repair them or set data.on_bad_image: skip."
    )


def _labels_and_splits(
    source: Source, checked: Checked, config: DataConfig
) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
    """Return labels and splits ``[N]`` of the good images. Hold out test rows if there are none.

    Test rows are chosen by the images' content alone: no seed, file name or file order can move an
    image between training and test.
    """
    labels = np.array(source.labels, dtype=np.int64)[checked.rows]
    splits = np.array(source.splits, dtype=np.str_)[checked.rows]
    train = np.flatnonzero(splits == "train")
    num_classes = len(source.class_names)
    if num_classes < 2:
        raise UserError(f"dataset={source.name} has fewer than 2 classes; add labeled images.")
    counts = np.bincount(labels[train], minlength=num_classes)
    if not counts.all():
        name = source.class_names[int(counts.argmin())]
        passed = [f" ({path}: {why})" for path, why in source.skipped if f"/{name}/" in f"/{path}"]
        raise UserError(
            f"class {name!r} has no readable training images{''.join(passed[:1])}; add some or "
            "remove the class."
        )
    if "test" not in splits:
        count = held_out_count(len(train), config.test_fraction, num_classes, "data.test_fraction")
        rank = np.ascontiguousarray(checked.digests[train, :8]).view(np.dtype(">u8"))[:, 0]
        order = stratified_order(labels[train], rank.astype(np.uint64))
        splits[train[order[-count:]]] = "test"
    return labels, splits


def _fingerprint(
    class_names: list[str], table: list[tuple[str, str, str]], digests: list[bytes]
) -> str:
    total = hashlib.sha256("\0".join(class_names).encode())
    for row, digest in zip(table, digests, strict=True):
        total.update("\0".join(["", *row, ""]).encode() + digest)
    return total.hexdigest()[:32]


def _packed_file(path: Path, num_rows: int, config: DataConfig) -> NDArray[np.uint8]:
    shape = (num_rows, config.image_size, config.image_size, config.channels)
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
