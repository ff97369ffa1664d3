"""A Slurm cluster of one node: munged, slurmctld and slurmd with a configuration of their own."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from services import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
PATH = f"{os.environ['PATH']}:/usr/sbin"  # Debian's, not in everybody's
START_SECONDS = 120.0

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket/it
CredType=cred/munge
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why there can be no cluster here; None: there can."""
    if any(shutil.which(program, path=PATH) is None for program in PROGRAMS):
        return "needs Slurm; on Debian: apt-get install slurm-wlm munge"
    return "needs root, as which slurmd starts jobs" if os.getuid() else None


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Run a cluster; yield the environment of its clients."""
    munge, sockets = folder / "munge", folder / "munge" / "socket"
    for made in (munge, sockets, folder / "state", folder / "spool"):
        made.mkdir()
    (munge / "key").write_bytes(os.urandom(128))
    for path, mode in ((munge / "key", 0o400), (sockets, 0o755), (munge, 0o711)):
        shutil.chown(path, "munge", "munge")
        path.chmod(mode)
    (munge / "private").mkdir(mode=0o700)
    shutil.chown(munge / "private", "munge", "munge")
    ports = (free_port(), free_port())
    text = CONFIGURATION.format(
        host=socket.gethostname(), folder=folder, ports=ports, cores=os.cpu_count()
    )
    (folder / "slurm.conf").write_text(text)
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": PATH}
    commands = [
        [
            *("runuser", "-u", "munge", "--", "munged", "--foreground", "--force"),
            *(f"--key-file={munge}/key", f"--socket={sockets}/it"),
            *(f"--{name}-file={munge}/private/{name}" for name in ("pid", "log", "seed")),
        ],
        ["slurmctld", "-D"],
        ["slurmd", "-D"],
    ]
    with contextlib.ExitStack() as running:
        for name, command, ready in zip(
            PROGRAMS,
            commands,
            (["test", "-S", f"{sockets}/it"], ["scontrol", "ping"], ["sinfo", "-h", "-t", "idle"]),
            strict=False,
        ):
            log = running.enter_context((folder / f"{name}.log").open("w"))
            process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, process_group=0
            )
            running.callback(end, process)
            deadline = time.monotonic() + START_SECONDS
            while not answers(ready, environment):
                alive = process.poll() is None and time.monotonic() < deadline
                assert alive, f"{command} did not start: {Path(log.name).read_text()[-3000:]}"
                time.sleep(0.2)
        yield environment


def answers(command: list[str], environment: dict[str, str]) -> bool:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    said = done.stdout
    return done.returncode == 0 and "DOWN" not in said and (command[0] != "sinfo" or bool(said))


def end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
