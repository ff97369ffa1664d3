"""Methods that train in several phases. Cells that need the same finished phase share it."""

import contextlib
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.distributed import any_process, from_first, wait_for_all, world
from semimae.engine.checkpoint import Checkpoints, Row, TrainState
from semimae.engine.fit import fit
from semimae.engine.teachers import Labels, pseudo_labels
from semimae.files import file_hash, held_lock, replaced_file, write_text
from semimae.model import SemiModel
from semimae.model_file import open_model, save_model
from semimae.options.cell import Cell
from semimae.options.method import SelfTrainingOptions
from semimae.options.train import Rhythm
from semimae.types import Interrupted

_HELD, _WAITING, _STOPPED = range(3)  # how the first process stands with a lock


def phases(cell: Cell) -> list[Cell]:
    """Return the cells that a cell trains one after the other; most are their own only phase.

    A phase behind one that has trained the classifier starts with that phase's average as its
    teacher, which a warm-up of the average would replace by the student within some steps.
    """
    made: list[Cell] = []
    for phase in map(cell.of_phase, cell.options.phases()):
        changes: dict[str, object] = {}
        if not phase.options.learns_classes:
            changes["drop_path"] = 0.0  # nothing is classified, so all rates share the phase
        if any(before.options.learns_classes for before in made):
            changes["ema_warmup"] = False
        train = phase.train.model_copy(update=changes)
        made.append(phase.model_copy(update={"train": train}))
    return made


def fit_phases(
    cell: Cell,
    prepared: Prepared,
    split: Split,
    rhythm: Rhythm,
    *,
    resume: Path,
    finished: Callable[[Cell], Path],
    on_row: Callable[[str, Row], None],
    should_stop: Callable[[], bool],
    judged: Mapping[int, Row] | None = None,
) -> tuple[TrainState, list[dict[str, Any]]]:
    """Train all phases of a cell.

    Args:
        cell: What to train.
        prepared: The images.
        split: Which of them are labeled, unlabeled and for validation.
        rhythm: How often rows are logged, models are evaluated and the state is saved.
        resume: Folder for the checkpoints of this cell.
        finished: Returns the folder in which phases like this one are kept, for all cells.
        on_row: Is told of the rows of the last phase.
        should_stop: Asked once per step.
        judged: Of the last phase, see ``fit``.

    Returns:
        The last phase's state, and what the phases before it cost; of self-training's teachers
        also how right they are on the validation images.
    """
    *starts, last = phases(cell)
    split.check_unlabeled(last.method, last.num_unlabeled)  # before hours go into earlier phases
    model: SemiModel | None = None
    costs = []
    key = ""

    def finish(phase: Cell, start: SemiModel | None, before: str, name: str) -> tuple[str, Path]:
        """Train a phase unless it is there; return its key and its file."""
        key = phase_key(phase, prepared, split, before=before)
        path = finished(phase) / f"{key}.safetensors"
        with contextlib.ExitStack() as stack:
            # Another cell may be at the same phase.
            stack.enter_context(lock_for_all(path.with_suffix(".lock"), should_stop))
            if not any_process(world().rank == 0 and is_finished(path)):
                state = fit(
                    phase,
                    prepared,
                    split,
                    rhythm,
                    checkpoints=Checkpoints(resume / name),
                    on_row=lambda kind, row: None,
                    should_stop=should_stop,
                    start=start,
                )
                if world().rank == 0:
                    with replaced_file(path) as temporary:
                        save_model(state.ema, phase, prepared.info, temporary)
                        digest = file_hash(temporary)
                    took = {"seconds": state.seconds, "cpu_seconds": state.cpu_seconds}
                    record = json.dumps({"sha256": digest, "took": took})
                    write_text(path.with_suffix(".json"), record)
                wait_for_all()  # until it is written
        images = phase.train.steps * phase.images_per_step
        took = json.loads(path.with_suffix(".json").read_text())["took"]
        costs.append({"method": phase.method, "steps": phase.train.steps, "images": images, **took})
        return key, path

    for phase in starts:
        key, path = finish(phase, _adapted(model, phase), key, phase.method)
        model = open_model(path, branch=True).model
    labels: Labels | None = None
    if isinstance(last.options, SelfTrainingOptions):
        teachers = []
        for number, teacher in enumerate(last.teachers()):
            _, path = finish(teacher, None, "", f"teacher-{number}")
            teachers.append((teacher, open_model(path).model))
        ensemble = last.options.self_training.ensemble
        labels, cost = pseudo_labels(teachers, ensemble, prepared, split, should_stop)
        costs.append(cost)
    state = fit(
        last,
        prepared,
        split,
        rhythm,
        checkpoints=Checkpoints(resume),
        on_row=on_row,
        should_stop=should_stop,
        start=_adapted(model, last),
        labels=labels,
        judged=judged,
    )
    return state, costs


def phase_key(phase: Cell, prepared: Prepared, split: Split, before: str = "") -> str:
    """Return the identity of a phase that starts from the weights of the phase ``before``.

    Pretraining reads no labels: it is the same for every number of labels, as long as the
    unlabeled images are the same.
    """
    if phase.mim is not None:
        phase = phase.model_copy(update={"label_fraction": None, "num_labels": None})
        rows = split.unlabeled(prepared).tobytes()
    else:
        rows = split.model_dump_json().encode()
    texts = (before, phase.model_dump_json(), prepared.info.fingerprint)
    content = "\n".join(texts).encode() + rows
    return hashlib.sha256(content).hexdigest()[:16]


@contextlib.contextmanager
def lock_for_all(path: Path, should_stop: Callable[[], bool]) -> Iterator[None]:
    """Hold a lock in the first process; the others hear of its waiting, or they would give up.

    Raises:
        Interrupted: After ``should_stop`` in the first process.
    """
    if world().rank:
        while (news := from_first(_HELD)) != _HELD:
            if news == _STOPPED:
                raise Interrupted("stopped while waiting for another process")
        yield
        return

    def stopped() -> bool:
        return from_first(_STOPPED if should_stop() else _WAITING) == _STOPPED

    with held_lock(path, stopped):
        from_first(_HELD)
        yield


def is_finished(path: Path) -> bool:
    """Tell whether the file of a phase is there and sound; warn if it is damaged."""
    record = path.with_suffix(".json")  # written last
    try:
        if file_hash(path) == json.loads(record.read_text())["sha256"]:
            return True
        warnings.warn(f"{path} is damaged; the phase is trained again", stacklevel=2)
    except FileNotFoundError:
        pass
    except ValueError:
        warnings.warn(f"{record} is damaged; the phase is trained again", stacklevel=2)
    record.unlink(missing_ok=True)
    return False


def _adapted(model: SemiModel | None, phase: Cell) -> SemiModel | None:
    """Drop the MIM branch where the phase has none."""
    if model is None or phase.mim is not None:
        return model
    plain = SemiModel(model.backbone, None)  # type: ignore[arg-type]
    plain.weight_report = model.weight_report
    return plain
