"""dvc.lock, and who may write it: one process that records what workers have done.

The rest of the project calls DVC as a command. Here its library is called, so that a grid starts
it once and records many stages at a time: a command per stage costs seconds and rewrites all of
dvc.lock.
"""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import typer


class DvcLock:
    """What DVC knows of the stages of this repository, and how it is told more."""

    def __init__(self, root: Path) -> None:
        from dvc.exceptions import DvcException
        from dvc.repo import Repo

        logging.getLogger("dvc").setLevel(logging.WARNING)  # its import has set it up to tell more
        logging.getLogger("dvc.progress").setLevel(logging.CRITICAL + 1)  # bars among ours
        self.errors = DvcException
        self.repo = Repo(str(root), _wait_for_lock=True)

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
        with self._locked() as (repo, stages):
            for stage in (done := [stages[name] for name in names]):
                stage.save(run_cache=run_cache)
                stage.commit()
            self._dump(repo, done)

    def restore(self, groups: Iterable[Sequence[str]]) -> set[str]:
        """Fetch what stages would lead to from DVC's run cache; return the names of those found.

        Args:
            groups: Names of stages of one cell each. What is not found ends its group, since the
                next stage may read what it writes. Earlier outputs stay where nothing is found.
        """
        found = []
        with self._locked() as (repo, stages):
            for group in groups:
                for name in group:
                    if not _restore(repo, stages[name]):
                        break
                    found.append(stages[name])
            self._dump(repo, found)
        return {stage.addressing for stage in found}

    def _locked(self) -> Any:
        return _Locked(self.repo)

    @staticmethod
    def _dump(repo: Any, stages: list[Any]) -> None:
        if stages:
            with repo.scm_context():
                stages[0].dvcfile.dump_stages(stages, update_pipeline=False)


class _Locked:
    """Holds DVC's lock; gives the repository and its stages by name."""

    def __init__(self, repo: Any) -> None:
        from dvc.repo import lock_repo

        self.repo, self.lock = repo, lock_repo(repo)

    def __enter__(self) -> tuple[Any, dict[str, Any]]:
        self.lock.__enter__()
        return self.repo, {stage.addressing: stage for stage in self.repo.index.stages}

    def __exit__(self, *error: Any) -> None:
        self.lock.__exit__(*error)


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
