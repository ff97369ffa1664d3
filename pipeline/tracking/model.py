"""The headline's model in MLflow: logged, registered, and behind an alias that can be served."""

import base64
import io
import re
import tempfile
import warnings
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from pipeline.model_card import CARD, model_card, which_model
from pipeline.tracking.address import Address, address_of
from pipeline.tracking.store import Store, open_store, require_files
from pipeline.workspace import HEADLINE, RUNS, digest
from semimae.options.params import Params
from semimae.types import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

    from semimae.model_file import Trained

ALIAS = "headline"
# Tags of a version: a hash of its weights and the code that serves them, and its files' sizes.
_DIGEST, _FILES = "semimae.digest", "semimae.files"
_LONGEST_CARD = 5000  # characters, MLflow's limit for a description
_NEEDED = ("mlflow", "numpy", "pandas", "pillow", "torch")
_SERVED = Path(__file__).with_name("served.py")
_WEIGHTS = Path("train") / "model.safetensors"


def is_headline(folder: Path, root: Path) -> bool:
    """Return whether a folder is the project's headline, trained and evaluated.

    The headline of a queued experiment lies elsewhere and does not count, because the alias belongs
    to the workspace.
    """
    headline = folder.resolve() == (root / RUNS / HEADLINE).resolve()
    return headline and all((folder / f).is_file() for f in (_WEIGHTS, "linear_probe.json"))


def model_name(experiment: str) -> str:
    """Return the name under which an experiment's model is registered.

    Some characters have a meaning in ``models:/NAME@headline``, and MLflow rejects others.
    """
    return re.sub(r"[^\w.-]+", "-", experiment).lstrip(".")


def publish_model(store: Store, run: "Run", folder: Path) -> None:
    """Register the run's model, unless these weights are registered already, and set the alias.

    Weights count as registered only if the files of the version still exist.
    """
    name = model_name(store.config.experiment)
    seen = f"{digest(folder / _WEIGHTS)}-{digest(_SERVED)}"
    found = _versions(store.client, name, seen)
    version = next((each for each in found if _is_whole(store.client, each)), None)
    if version is None:
        version = _register(store, run, folder, name, seen)
        if found:
            warnings.warn(
                f"MLflow: files of {name} version {found[0].version} are missing; its weights were "
                f"registered again as version {version.version}",
                stacklevel=2,
            )
    if ALIAS not in version.aliases:
        store.client.set_registered_model_alias(name, ALIAS, version.version)


def served_model(root: Path, name: str | None) -> tuple[str, Address]:
    """Return the URI of the model to serve, and where it is registered.

    Args:
        root: The project.
        name: The name of a registered model, or None for the project's own.

    Raises:
        UserError: If the model or its files do not exist. The message says what to run.
        Exception: For any other failure of MLflow, the network or the disk.
    """
    from mlflow.exceptions import MlflowException

    own = model_name(Params.read(root / "params.yaml").tracking.experiment)
    uri = f"models:/{name or own}@{ALIAS}"
    trained = is_headline(root / RUNS / HEADLINE, root)
    remedy = (
        f"`make serve MODEL={own}` serves this project's"
        if name not in (None, own)
        else "`python -m pipeline sync-mlflow` registers the headline"
        if trained
        else "`make repro` trains, evaluates and registers the headline"
    )
    address = address_of(root)
    if address.database is not None and not address.database.exists():
        raise UserError(
            f"there is no model {uri}, because {address.database} does not exist; {remedy}."
        )
    client, address = open_store(root)
    try:
        version = client.get_model_version_by_alias(name or own, ALIAS)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise UserError(f"there is no model {uri} in {address.shown}; {remedy}.") from None
    if not _is_whole(client, version):
        raise UserError(f"the files of {uri}, version {version.version}, are missing; {remedy}.")
    return uri, address


def _versions(client: "MlflowClient", name: str, seen: str) -> "list[ModelVersion]":
    """Return the versions of these weights, with their aliases, which a search omits."""
    found = client.search_model_versions(f"name = '{name}' AND tags.`{_DIGEST}` = '{seen}'")
    return [client.get_model_version(name, each.version) for each in found]


def _is_whole(client: "MlflowClient", version: "ModelVersion") -> bool:
    """Return whether all files recorded for a version exist. MLflow adds others."""
    from mlflow.exceptions import MlflowException

    expected = set(version.tags.get(_FILES, "").splitlines())  # empty: registered by hand
    try:
        return not expected or expected <= set(
            _sizes(client, version.source.removeprefix("models:/"))
        )
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "ENDPOINT_NOT_FOUND", "NOT_FOUND"):
            return False
        raise


def _sizes(client: "MlflowClient", model_id: str) -> list[str]:
    """Return the name and size of each file of a logged model."""
    lines, folders = [], [None]
    for folder in folders:
        for file in client.list_logged_model_artifacts(model_id, folder):
            if file.is_dir:
                folders.append(file.path)
            else:
                lines.append(f"{file.path} {file.file_size}")
    return sorted(lines)


def _register(store: Store, run: "Run", folder: Path, name: str, seen: str) -> "ModelVersion":
    import mlflow
    from mlflow.entities import LoggedModelOutput
    from mlflow.exceptions import MlflowException

    from semimae.model_file import open_model

    client, identity = store.client, run.info.run_id
    mlflow.set_tracking_uri(store.address.uri)  # MLflow looks up the source of a version there
    mlflow.set_registry_uri(store.address.registry)
    require_files(store)
    trained = open_model(folder)
    with tempfile.TemporaryDirectory() as temporary:
        saved = Path(temporary) / "model"
        _save(trained, folder, saved)
        logged = client.create_logged_model(
            store.experiment, "classifier", identity, {_DIGEST: seen}, model_type="classifier"
        )
        try:
            client.log_model_artifacts(logged.model_id, str(saved))
        except BaseException:
            client.finalize_logged_model(logged.model_id, "FAILED")
            raise
        client.finalize_logged_model(logged.model_id, "READY")
        card = (saved / CARD).read_text(encoding="utf-8")
    client.log_outputs(identity, [LoggedModelOutput(logged.model_id, 0)])
    try:
        client.create_registered_model(name, description="The headline model of a project")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return client.create_model_version(
        name,
        source=f"models:/{logged.model_id}",
        run_id=identity,
        tags={_DIGEST: seen, _FILES: "\n".join(_sizes(client, logged.model_id))},
        description=card[:_LONGEST_CARD],
        model_id=logged.model_id,
    )


def _save(trained: "Trained", folder: Path, out: Path) -> None:
    """Write the model in MLflow's format. It then needs nothing of this project to run."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec
    from mlflow.types.schema import Array

    from semimae.inference.exports import PROGRAM, export

    dataset = trained.info.dataset
    # Only with this signature does MLflow pass numbers unchanged and accept text too. With uint8,
    # it would truncate 0.5 to 0.
    signature = ModelSignature(
        Schema([TensorSpec(np.dtype(object), (-1,), "image")]),
        Schema(
            [
                ColSpec(DataType.string, "class"),
                ColSpec(DataType.double, "probability"),
                ColSpec(Array(DataType.double), "probabilities"),
            ]
        ),
    )
    with tempfile.TemporaryDirectory() as temporary:
        export(trained, "torch", Path(temporary))
        with warnings.catch_warnings():  # MLflow warns about type hints, even its own
            warnings.simplefilter("ignore", UserWarning)
            import mlflow.pyfunc

            mlflow.pyfunc.save_model(
                out,
                python_model=str(_SERVED),
                artifacts={"program": str(Path(temporary) / PROGRAM)},
                signature=signature,
                input_example=np.array([_example(dataset.image_size)], dtype=object),
                model_config={
                    "about": which_model(trained, folder),  # the server prints it when it starts
                    "names": list(dataset.class_names),
                    "size": dataset.image_size,
                    "channels": dataset.channels,
                    "share": trained.center,
                    "cache_size": dataset.cache_size,
                    "white_level": dataset.white_level,
                },
                # Without a build tag, which no package index has.
                pip_requirements=[f"{n}=={installed(n).partition('+')[0]}" for n in _NEEDED],
                metadata={"classes": list(dataset.class_names)},
            )
    card = model_card(trained, folder, [])
    (out / CARD).write_text(card, encoding="utf-8")


def _example(size: int) -> str:
    """Return a gray gradient as a PNG file in base64."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((size, size)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
