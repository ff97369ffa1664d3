"""dvc.lock, and who may write it: one process that records what workers have done.

The rest of the project calls DVC as a command. Here its library is called, so that a grid starts
it once and records many stages at a time: a command per stage costs seconds and rewrites all of
dvc.lock.
"""

import contextlib
import functools
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import typer

from semimae.files import replaced_file

_KEPT = Path(".semimae/dvc.lock")  # what dvc.lock held before it was written, until it is written


class DvcLock:
    """What DVC knows of the stages of this repository, and how it is told more."""

    def __init__(self, root: Path) -> None:
        from dvc.exceptions import DvcException
        from dvc.repo import Repo, lock_repo

        logging.getLogger("dvc").setLevel(logging.WARNING)  # its import has set it up to tell more
        logging.getLogger("dvc.progress").setLevel(logging.CRITICAL + 1)  # bars among ours
        self.errors, self.root = DvcException, root
        self.repo = Repo(str(root), _wait_for_lock=True)
        self.locked = functools.partial(lock_repo, self.repo)
        if (root / _KEPT).exists():  # who wrote dvc.lock was killed; or is still writing it
            with self.locked(), contextlib.suppress(FileNotFoundError):
                os.replace(root / _KEPT, root / "dvc.lock")

    def changed(self) -> set[str]:
        """Return the names of the stages that `dvc repro` would run."""
        try:
            return set(self.repo.status())
        except self.errors as error:  # such as: dvc.yaml and params.yaml do not fit together
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from None

    def record(self, names: Sequence[str], *, run_cache: bool = True) -> None:
        """Record stages that have run, as `dvc commit -f` does.

        Args:
            names: Of the stages.
            run_cache: Whether their outputs go to DVC's run cache, so that equal ones find them.
        """
        with self.locked():
            stages = self._stages()
            for stage in (done := [stages[name] for name in names]):
                stage.save(run_cache=run_cache)
                stage.commit()
            self._dump(done)

    def restore(self, groups: Iterable[Sequence[str]]) -> set[str]:
        """Fetch what stages would lead to from DVC's run cache; return the names of those found.

        Args:
            groups: Names of stages of one cell each. What is not found ends its group, since the
                next stage may read what it writes. Earlier outputs stay where nothing is found.
        """
        found = []
        with self.locked():
            stages = self._stages()
            for group in groups:
                for name in group:
                    if not _restore(self.repo, stages[name]):
                        break
                    found.append(stages[name])
            self._dump(found)
        return {stage.addressing for stage in found}

    def _stages(self) -> dict[str, Any]:
        return {stage.addressing: stage for stage in self.repo.index.stages}

    def _dump(self, stages: list[Any]) -> None:
        """Write stages to dvc.lock, of which DVC leaves a part if it is killed meanwhile."""
        if not stages:
            return
        if (lock := self.root / "dvc.lock").exists():
            with replaced_file(self.root / _KEPT) as kept:
                kept.write_bytes(lock.read_bytes())
        with self.repo.scm_context():
            stages[0].dvcfile.dump_stages(stages, update_pipeline=False)
        (self.root / _KEPT).unlink(missing_ok=True)


def changed_stages(root: Path) -> set[str]:
    """Return the names of the stages that `dvc repro` would run."""
    return DvcLock(root).changed()


def _restore(repo: Any, stage: Any) -> bool:
    from dvc.stage.cache import RunCacheNotFoundError
    from dvc_data.hashfile.hash_info import HashInfo

    if not all(dep.exists for dep in stage.deps):
        return False
    if stage.changed_stage() or not stage.deps_cached():
        for out in stage.outs:  # dvc.lock speaks of what other inputs led to
            out.hash_info = HashInfo()
        stage.save_deps()
    try:
        repo.stage_cache.restore(stage, dry=True)
    except RunCacheNotFoundError:
        return False
    stage.remove_outs(ignore_remove=False, force=False)
    repo.stage_cache.restore(stage)
    stage.save()
    stage.commit()
    return True
