"""The services of docker/compose.yaml as plain processes: PostgreSQL, an S3 store, MLflow."""

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from support import REPO

SERVICES: dict[str, Any] = YAML(typ="safe").load(REPO / "docker/compose.yaml")["services"]
START_SECONDS = 300.0  # on a machine that has other things to do


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def postgres_programs() -> Path | None:
    """The folder of PostgreSQL's server programs; Debian keeps them out of PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    initdb = shutil.which("initdb")
    return Path(initdb).parent if initdb else None


def wait_for(service: "Service", ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        running = service.process.poll() is None and time.monotonic() < deadline
        assert running, f"it did not start: {service.command}\n{service.log.read_text()[-3000:]}"
        time.sleep(0.2)


def answers(url: str, host: str | None = None) -> int:
    """The status of a GET, 0 without an answer."""
    request = urllib.request.Request(url, headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


class Service:
    """A process with all that it starts, its output in a file."""

    def __init__(self, command: list[str], log: Path, env: dict[str, str], user: str | None = None):
        self.command, self.log, self.env, self.user = command, log, env, user

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env=self.env,
                cwd=self.log.parent,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=self.user,
                group=self.user,
                extra_groups=[] if self.user else None,
            )

    def stop(self, number: int) -> None:
        """Send a signal to all of its processes, and wait for the first one's end."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)
        self.process.wait(60)


class Stack:
    """What compose would start, with its settings from docker/compose.yaml."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder, self.programs = folder, programs
        self.ports = {name: free_port() for name in ("postgres", "storage", "mlflow")}
        self.secrets = {
            name: secrets.token_hex(12)
            for name in ("POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY")
        }
        self.url = f"http://127.0.0.1:{self.ports['mlflow']}"
        self.s3_url = f"http://127.0.0.1:{self.ports['storage']}"

    def resolved(self, text: str) -> str:
        """A value of compose.yaml with its variables filled in, and addresses of this machine."""
        text = re.sub(r"\$\{(\w+):\?[^}]*\}", lambda m: self.secrets[m[1]], text)
        text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
        for name, port in {"postgres": 5432, "storage": 9000}.items():
            text = re.sub(rf"\b{name}:{port}\b", f"127.0.0.1:{self.ports[name]}", text)
        return text

    def environment(self, service: str) -> dict[str, str]:
        values = SERVICES[service]["environment"]
        return self.clean() | {key: self.resolved(value) for key, value in values.items()}

    def clean(self) -> dict[str, str]:
        private = ("PG", "AWS_", "MLFLOW_", "DVC_", "SEMIMAE_", "S3_")
        return {key: value for key, value in os.environ.items() if not key.startswith(private)}

    @contextlib.contextmanager
    def running(self) -> Iterator["Stack"]:
        with contextlib.ExitStack() as stack:
            postgres = self.postgres()
            postgres.start()
            stack.callback(postgres.stop, signal.SIGINT)  # its fast shutdown
            storage = Service(
                [sys.executable, "-m", "moto.server", "-p", str(self.ports["storage"])],
                self.folder / "storage.log",
                self.clean(),
            )
            storage.start()
            stack.callback(storage.stop, signal.SIGKILL)
            wait_for(storage, lambda: answers(self.s3_url) == 200)
            ready = [str(self.programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p"]
            ready.append(str(self.ports["postgres"]))
            wait_for(postgres, lambda: subprocess.run(ready, check=False).returncode == 0)
            self.create_bucket()
            self.mlflow = self.tracking_server()
            self.mlflow.start()
            stack.callback(lambda: self.mlflow.stop(signal.SIGKILL))
            self.wait_for_mlflow()
            yield self

    def postgres(self) -> Service:
        """Make a database cluster; PostgreSQL refuses to run as root, so root takes its user."""
        user = "postgres" if os.geteuid() == 0 else None
        folder = self.folder / "postgres"
        folder.mkdir()
        password = folder / "password"
        password.write_text(self.secrets["POSTGRES_PASSWORD"])
        if user:
            shutil.chown(folder, user)
            shutil.chown(password, user)
        setting = SERVICES["postgres"]["environment"]
        data = str(folder / "data")
        initdb = [str(self.programs / "initdb"), "-D", data, f"--pwfile={password}"]
        initdb += ["-U", setting["POSTGRES_USER"], *setting["POSTGRES_INITDB_ARGS"].split()]
        subprocess.run(
            initdb, check=True, capture_output=True, user=user, cwd=folder, env=self.clean()
        )
        password.unlink()
        command = [str(self.programs / "postgres"), "-D", data, "-k", str(folder)]
        command += ["-h", "127.0.0.1", "-p", str(self.ports["postgres"])]
        return Service(command, self.folder / "postgres.log", self.clean(), user)

    def create_bucket(self) -> None:
        """Run what the one-shot services do: the database, and the bucket by compose's script."""
        setting = SERVICES["postgres"]["environment"]
        password = self.clean() | {"PGPASSWORD": self.secrets["POSTGRES_PASSWORD"]}
        where = ["-h", "127.0.0.1", "-p", str(self.ports["postgres"]), "-U"]
        createdb = [str(self.programs / "createdb"), *where, setting["POSTGRES_USER"]]
        subprocess.run([*createdb, setting["POSTGRES_DB"]], check=True, env=password)
        script = REPO / "docker" / Path(SERVICES["create-bucket"]["command"][1]).name
        env = self.environment("create-bucket")
        for said in ("created", "already exists"):  # the second time it has nothing to do
            done = subprocess.run(
                [sys.executable, script], check=True, env=env, capture_output=True, text=True
            )
            assert said in done.stdout

    def tracking_server(self) -> Service:
        command = [self.resolved(word) for word in SERVICES["mlflow"]["command"]]
        program = [sys.executable, "-m", *command[:2]]
        place = {
            "--host=0.0.0.0": "--host=127.0.0.1",
            "--port=5000": f"--port={self.ports['mlflow']}",
        }
        assert place.keys() <= set(command)
        flags = [place.get(word, word) for word in command[2:]]
        return Service([*program, *flags], self.folder / "mlflow.log", self.environment("mlflow"))

    def wait_for_mlflow(self) -> None:
        wait_for(self.mlflow, lambda: answers(f"{self.url}/health") == 200)
