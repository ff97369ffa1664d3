"""A workspace as DVC's stages leave it, and stages as processes that start within milliseconds."""

import contextlib
import hashlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Self

from ruamel.yaml import YAML
from support import REPO, changed_params, wait_until

from semimae.data.store import Prepared
from semimae.ingest.choose import make_split
from semimae.ingest.prepare import prepare

SERVER = Path(__file__).with_name("stage_server.py")
OUTPUTS = {
    "train": ["train"],
    "fine-tune": ["fine_tune.json"],
    "linear-probe": ["linear_probe.json", "reconstructions.npz"],
}
TIMES = {"timing.json", "origin.json", "machine.json"}  # when and where, not what


def variables(root: Path) -> dict[str, str]:
    """The environment of a stage, without what the tests' own process has of DVC and MLflow."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_", "PYTEST_"))}
    return kept | {"PYTHONPATH": str(REPO), "DVC_ROOT": str(root), "OMP_NUM_THREADS": "1"}


def _content(path: Path) -> bytes:
    """What a file says, apart from how long something took."""
    if path.name != "phases.json":
        return path.read_bytes()
    phases = json.loads(path.read_text())
    said = [{k: v for k, v in phase.items() if "seconds" not in k} for phase in phases]
    return json.dumps(said).encode()


class Workspace:
    """A folder with params.yaml, prepared digits and cells, as DVC's stages leave it."""

    def __init__(self, root: Path, cells: int = 1, **changes: object) -> None:
        self.root = root
        self.cell = root / "runs" / "headline"
        changes = {"tracking__log_model": False} | changes  # test_registered_model.py has it
        params = changed_params(**changes)
        with (root / "params.yaml").open("w") as file:
            YAML().dump(json.loads(params.model_dump_json()), file)
        (root / "dvc.yaml").touch()
        prepare("digits", params.data, root, root / "prepared")
        prepared = Prepared.read(root / "prepared")
        for number in range(cells):
            cell = changed_params(**changes | {"seed": number}).cell()
            folder = root / "runs" / (f"seed-{number}" if number else "headline")
            folder.mkdir(parents=True)
            cell.write(folder / "config.json")
            make_split(
                prepared,
                seed=cell.seed,
                num_labels=cell.num_labels,
                val_fraction=cell.data.val_fraction,
                include_labeled=True,
            ).write(folder / "split.json")

    def copy(self, root: Path) -> "Workspace":
        """A workspace of its own with what this one has."""
        shutil.copytree(self.root, root, dirs_exist_ok=True)
        other = object.__new__(Workspace)
        other.root, other.cell = root, root / "runs" / "headline"
        return other

    def result(self, command: str = "train") -> dict[str, str]:
        """Hash of every output of a stage."""
        paths = [self.cell / name for name in OUTPUTS[command]]
        inside = [file for path in paths if path.is_dir() for file in path.iterdir()]
        files = [file for file in inside if file.name not in TIMES] or paths
        return {f.name: hashlib.sha256(_content(f)).hexdigest() for f in sorted(files)}

    def wait_for_checkpoint(self) -> None:
        wait_until(lambda: bool(self.checkpoints()))

    def leftovers(self) -> list[Path]:
        """What a stage that has ended well must not leave behind."""
        resume = self.root / ".semimae" / "resume"
        return [*self.root.rglob("*.tmp"), *(p for p in resume.glob("*") if p.suffix != ".lock")]

    def checkpoints(self) -> list[Path]:
        return sorted(self.root.glob(".semimae/resume/*/step-*.json"))


class Watch:
    """Notices the end of a process that is another's child, by its file descriptor."""

    def __init__(self, pid: int) -> None:
        self.descriptor = os.pidfd_open(pid)

    def ends_within(self, seconds: float) -> bool:
        return bool(select.select([self.descriptor], [], [], seconds)[0])

    def close(self) -> None:
        os.close(self.descriptor)


class Stage:
    """A running stage."""

    def __init__(self, server: "StageServer", pid: int, output: Path) -> None:
        self.server, self.pid, self.output = server, pid, output

    def send(self, number: signal.Signals) -> None:
        """Send a signal; one that has ended takes no notice."""
        os.kill(self.pid, number)

    def holds(self, locks: list[Path]) -> bool:
        """Whether it has locked one of these files, which it opens first."""
        held = Path("/proc/locks").read_text()
        return any(
            f" {self.pid} " in line and f":{lock.stat().st_ino} " in line
            for line in held.splitlines()
            for lock in locks
        )

    def end_after(self, seconds: float, number: signal.Signals) -> int:
        """Send a signal after some time, unless it ends before; return the exit status."""
        with contextlib.closing(Watch(self.pid)) as watch:
            if not watch.ends_within(seconds):
                self.send(number)
        return self.wait()

    def end_when(self, happens: Callable[[], object], number: signal.Signals) -> int:
        """Send a signal when something happens, unless it ends before; return the exit status."""
        with contextlib.closing(Watch(self.pid)) as watch:
            wait_until(lambda: bool(happens()) or watch.ends_within(0))
            if not watch.ends_within(0):
                self.send(number)
        return self.wait()

    def wait_until_halted(self) -> None:
        """Wait until it has stopped itself, as ``halt_at`` said."""
        state = Path(f"/proc/{self.pid}/stat")
        wait_until(
            lambda: state.read_text().rpartition(")")[2].split()[0] == "T",
            lambda: state.read_text().rpartition(")")[2].split()[0] != "Z",
        )

    def wait(self) -> int:
        """Wait for the end; return the exit status, negative for a signal."""
        return int(self.server.say({"wait": self.pid}))

    @property
    def text(self) -> str:
        return self.output.read_text()


class StageServer:
    """Runs stages as forks of one process that has imported everything."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(SERVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=variables(REPO),
        )
        self.count, self.outputs = 0, tempfile.TemporaryDirectory()
        assert self._pipe(self.process.stdout).readline() == "ready\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe(self.process.stdin).close()
        self._pipe(self.process.stdout).close()
        self.process.wait()
        self.outputs.cleanup()

    def start(
        self,
        command: str,
        workspace: Workspace,
        *,
        cell: Path | None = None,
        die_at: int = 0,
        halt_at: int = 0,
        patient: bool = False,
        **environment: str,
    ) -> Stage:
        """Start a stage in a workspace's cell.

        Args:
            patient: Whether it waits for a sound store on a machine with too much to do.
            die_at: Before which of its changes of files the stage kills itself; 0: never.
            halt_at: Before which of them it stops itself (SIGSTOP) until it is told to go on.
        """
        self.count += 1
        output = Path(self.outputs.name) / f"{self.count}.log"  # not on the disk under test
        output.touch()
        order = {
            "arguments": command.split(),
            "folder": str(cell or workspace.cell),
            "environment": {"DVC_ROOT": str(workspace.root)} | environment,
            "output": str(output),
            "die_at": die_at,
            "halt_at": halt_at,
            "patient": patient,
        }
        return Stage(self, int(self.say(order)), output)

    def finish(self, command: str, workspace: Workspace, **options: object) -> str:
        """Run a stage to its good end; return what it printed."""
        stage = self.start(command, workspace, **options)  # type: ignore[arg-type]
        code = stage.wait()
        assert code == 0, f"{code}\n{stage.text}"
        return stage.text

    def say(self, order: dict[str, object]) -> str:
        pipe = self._pipe(self.process.stdin)
        pipe.write(json.dumps(order) + "\n")
        pipe.flush()
        return self._pipe(self.process.stdout).readline()

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
