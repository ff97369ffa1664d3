"""What docker/ promises, as far as it can be seen without an engine. `make stack-test` runs the
same server for real, and CI builds the images."""

import fnmatch
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from packaging.requirements import Requirement
from ruamel.yaml import YAML
from support import REPO

DOCKER = REPO / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
TARGETS = ("mlflow", "cpu", "cuda")
COMPOSE: dict[str, Any] = YAML(typ="safe").load(DOCKER / "compose.yaml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SECRET = re.compile(r"PASSWORD|SECRET|ACCESS_KEY|TOKEN")
every_service = pytest.mark.parametrize("name", SERVICES)
every_target = pytest.mark.parametrize("target", TARGETS)


class Instruction(NamedTuple):
    word: str
    rest: str


def stages() -> dict[str, list[Instruction]]:
    """The instructions of each stage, those that it inherits first."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.MULTILINE)
    found: dict[str, list[Instruction]] = {}
    current: list[Instruction] = []
    for line in text.replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, name = rest.split()
            # a build argument is not handed on to the stages of a stage, not by every builder
            current = [i for i in found.get(base, []) if i.word != "ARG"]
            found[name] = current
        elif line.startswith("ARG") and not found:
            continue  # before the first stage
        else:
            current.append(Instruction(word, " ".join(rest.split())))
    return found


def last(target: str, word: str) -> str:
    return [instruction.rest for instruction in stages()[target] if instruction.word == word][-1]


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path out; the last pattern that matches decides."""
    result = False
    parents = [path, *map(str, Path(path).parents)][:-1]
    for line in (REPO / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        if any(fnmatch.fnmatch(p, pattern) and p.count("/") == pattern.count("/") for p in parents):
            result = not line.startswith("!")
    return result


def pins(lock: Path) -> set[str]:
    """The names and versions of a lock file, without their markers and hashes."""
    found = set(re.findall(r"^([a-z0-9-]+==[^\s;]+)", lock.read_text(), re.MULTILINE))
    assert len(found) > 50, lock
    return found


def version(lock: Path, name: str) -> str:
    (found,) = [pin for pin in pins(lock) if pin.startswith(f"{name}==")]
    return found.partition("==")[2]


# --- the images


@every_target
def test_an_image_runs_as_a_user_with_few_rights(target: str) -> None:
    user, _, group = last(target, "USER").partition(":")
    assert int(user) > 0
    assert int(group) > 0


@every_target
def test_an_image_says_how_to_see_that_it_is_healthy(target: str) -> None:
    check = last(target, "HEALTHCHECK")
    serves = any(instruction.word == "EXPOSE" for instruction in stages()[target])
    assert ("/health" in check) if serves else check == "NONE"


@every_target
def test_what_an_image_copies_is_there_and_not_ignored(target: str) -> None:
    sources = [
        source
        for instruction in stages()[target]
        if instruction.word == "COPY"
        for source in instruction.rest.split()[:-1]
    ]
    assert sources
    for source in sources:
        assert (REPO / source).is_file(), source
        assert not ignored(source), source


@pytest.mark.parametrize("path", ["docker/.env", ".git/config", "data/a.png", "runs/x/config.json"])
def test_what_is_private_stays_out_of_the_build(path: str) -> None:
    assert ignored(path)


@every_target
def test_only_pinned_packages_are_installed(target: str) -> None:
    runs = [i.rest for i in stages()[target] if i.word == "RUN" and "pip install" in i.rest]
    assert runs
    for run in runs:
        for command in run.split(" && "):
            words = shlex.split(command)
            if words[:2] != ["pip", "install"]:
                continue
            packages = [word for word in words[2:] if not word.startswith("-")]
            if "--require-hashes" in words:
                assert [package.endswith(".lock") for package in packages] == [True]
            else:
                assert packages == [
                    "torch==${TORCH_VERSION}",
                    "torchvision==${TORCHVISION_VERSION}",
                ]


def test_torch_of_the_images_is_one_that_the_project_takes() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    bounds = {r.name: r.specifier for r in map(Requirement, project["dependencies"])}
    arguments = dict(re.findall(r"^ARG (\w+)=(.+)$", DOCKERFILE, re.MULTILINE))
    for target in ("cpu", "cuda"):  # else it is empty there
        declared = {i.rest for i in stages()[target] if i.word == "ARG"}
        assert {"TORCH_VERSION", "TORCHVISION_VERSION"} <= declared
    assert arguments["TORCH_VERSION"] in bounds["torch"]
    assert arguments["TORCHVISION_VERSION"] in bounds["torchvision"]


def test_the_images_have_the_versions_of_the_project() -> None:
    locked = pins(REPO / "requirements.lock")
    for lock in (DOCKER / "pipeline.lock", DOCKER / "mlflow.lock"):
        assert pins(lock) <= locked, f"run `make lock`: {pins(lock) - locked}"


def test_the_images_have_all_that_they_need() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    names = {pin.partition("==")[0] for pin in pins(DOCKER / "pipeline.lock")}
    needed = {Requirement(text).name.replace(".", "-") for text in project["dependencies"]}
    assert needed - names == {"torch", "torchvision"}
    names = {pin.partition("==")[0] for pin in pins(DOCKER / "mlflow.lock")}
    extra = project["optional-dependencies"]["server"]
    assert {"mlflow"} | {Requirement(text).name for text in extra} <= names


def test_client_and_server_have_the_same_mlflow_and_the_image_says_which() -> None:
    server = version(DOCKER / "mlflow.lock", "mlflow")
    assert server == version(DOCKER / "pipeline.lock", "mlflow")
    assert SERVICES["mlflow"]["image"].endswith(f":{server}")


def test_no_host_of_a_package_index_is_named() -> None:
    for path in (*DOCKER.glob("*"), REPO / "requirements.lock"):
        hosts = set(re.findall(r"[a-z]+://(?:\w+@)?([\w.-]+)", path.read_text()))
        assert hosts <= {"127.0.0.1", "storage", "mlflow", "postgres"}, path.name


def test_hadolint_has_no_complaint() -> None:
    linter = Path(sys.executable).parent / "hadolint"
    command = [linter, "--failure-threshold", "style", DOCKER / "Dockerfile"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# --- the services


@every_service
def test_a_service_has_no_rights_that_it_does_not_need(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "ipc"} & service.keys()
    user = service.get("user") or last(service["build"]["target"], "USER")
    assert user.partition(":")[0] not in ("root", "0")


@every_service
def test_a_service_has_an_init_process(name: str) -> None:
    assert SERVICES[name]["init"] is True  # DVC takes a zombie for the holder of its lock


@every_service
def test_a_service_is_either_watched_or_runs_once(name: str) -> None:
    service = SERVICES[name]
    if service["restart"] == "no":
        return
    assert service["restart"] == "unless-stopped"
    if "healthcheck" not in service:
        assert last(service["build"]["target"], "HEALTHCHECK") != "NONE"


def test_services_wait_for_what_they_need() -> None:
    for name, service in SERVICES.items():
        for needed, how in service.get("depends_on", {}).items():
            once = SERVICES[needed]["restart"] == "no"
            wanted = "service_completed_successfully" if once else "service_healthy"
            assert how["condition"] == wanted, f"{name} needs {needed}"
    assert SERVICES["mlflow"]["depends_on"].keys() == {"postgres", "create-bucket"}
    assert SERVICES["pipeline"]["depends_on"].keys() == {"mlflow"}


def test_every_secret_must_be_given_and_none_has_a_default() -> None:
    example = dict(re.findall(r"^(\w+)=(.*)$", (DOCKER / "env.example").read_text(), re.MULTILINE))
    secrets = {
        f"{name}.{key}": value
        for name, service in SERVICES.items()
        for key, value in service.get("environment", {}).items()
        if SECRET.search(key)
    }
    assert len(secrets) >= 7
    for key, value in secrets.items():
        given = re.fullmatch(r"\$\{(\w+):\?[^}]+\}", value)
        assert given, f"{key}: {value}"
        assert example[given[1]] == "", f"{given[1]} has a default"
    for name, service in SERVICES.items():
        assert not SECRET.search(" ".join(service.get("command", []))), f"{name}: ps shows it"


@every_service
def test_ports_are_open_to_this_machine_alone(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert port.startswith("127.0.0.1:")
    behind = name in ("postgres", "storage", "create-bucket")
    assert ("front" not in SERVICES[name]["networks"]) == behind
    assert COMPOSE["networks"]["back"]["internal"] is True


@every_service
def test_an_image_is_pinned_or_built_here(name: str) -> None:
    service = SERVICES[name]
    if "build" in service:
        assert service["build"]["target"] in TARGETS
    else:
        assert re.search(r":\d+\.\d+", service["image"])
    assert not service["image"].endswith(":latest")


def test_every_volume_is_declared() -> None:
    used = {v.partition(":")[0] for s in SERVICES.values() for v in s.get("volumes", [])}
    named = {name for name in used if re.fullmatch(r"[a-z]+", name)}
    assert named | {"images"} == COMPOSE["volumes"].keys()


def test_the_server_answers_its_clients_and_no_other_name() -> None:
    from mlflow.server.security_utils import is_allowed_host_header

    command = dict(word[2:].split("=") for word in SERVICES["mlflow"]["command"] if "=" in word)
    hosts = command["allowed-hosts"].removeprefix("${MLFLOW_ALLOWED_HOSTS:-").removesuffix("}")
    client = SERVICES["pipeline"]["environment"]["MLFLOW_TRACKING_URI"].partition("://")[2]
    for host in (client, "localhost:5000", "127.0.0.1:5000"):
        assert is_allowed_host_header(hosts.split(","), host), host
    for host in ("mlflow.example.org", "evil-localhost:5000", "mlflow.evil.example:5000"):
        assert not is_allowed_host_header(hosts.split(","), host), host


def test_compose_refuses_to_start_without_secrets(tmp_path: Path) -> None:
    if not shutil.which("docker"):
        pytest.skip("needs docker")
    compose = ["docker", "compose", "-f", str(DOCKER / "compose.yaml")]
    if subprocess.run([*compose, "version"], capture_output=True, check=False).returncode:
        pytest.skip("needs docker's compose plugin")

    def config(values: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "env").write_text(values)
        command = [*compose, "--env-file", str(tmp_path / "env"), "config", "--quiet"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    refused = config((DOCKER / "env.example").read_text())
    assert refused.returncode != 0
    assert "see docker/env.example" in refused.stderr
    taken = config("POSTGRES_PASSWORD=a\nS3_ACCESS_KEY=b\nS3_SECRET_KEY=c\n")
    assert taken.returncode == 0, taken.stderr
