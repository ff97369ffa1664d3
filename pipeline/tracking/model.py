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

from pipeline.model_card import CARD, model_card
from pipeline.tracking.store import Store
from pipeline.workspace import HEADLINE, RUNS, digest

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

    from semimae.model_file import Trained

ALIAS = "headline"
_DIGEST = "semimae.digest"  # tag of a version: of its weights
_NEEDED = ("mlflow", "numpy", "pandas", "pillow", "safetensors", "timm", "torch")
_WEIGHTS = Path("train") / "model.safetensors"


def is_headline(folder: Path, root: Path) -> bool:
    """Tell whether a folder is the project's headline, trained and scored.

    That of a queued experiment, which lies elsewhere, is not: the alias stays with the workspace.
    """
    headline = folder.resolve() == (root / RUNS / HEADLINE).resolve()
    return headline and all((folder / f).is_file() for f in (_WEIGHTS, "linear_probe.json"))


def publish_model(store: Store, run: "Run", folder: Path) -> None:
    """Register the run's model, unless these weights are registered, and let the alias name it."""
    name = re.sub("[/:]", "-", store.config.experiment)  # MLflow's rule for models
    seen = digest(folder / _WEIGHTS)
    version = _find_version(store, name, seen) or _register(store, run, folder, name, seen)
    if ALIAS not in version.aliases:
        store.client.set_registered_model_alias(name, ALIAS, version.version)


def _find_version(store: Store, name: str, seen: str) -> "ModelVersion | None":
    found = store.client.search_model_versions(f"name = '{name}' AND tags.`{_DIGEST}` = '{seen}'")
    if not found:
        return None
    return store.client.get_model_version(name, found[0].version)  # a search leaves out aliases


def _register(store: Store, run: "Run", folder: Path, name: str, seen: str) -> "ModelVersion":
    import mlflow
    from mlflow.entities import LoggedModelOutput
    from mlflow.exceptions import MlflowException

    from semimae.model_file import open_model

    client, identity = store.client, run.info.run_id
    mlflow.set_tracking_uri(client.tracking_uri)  # a version's source is looked up by way of it
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
        client.create_registered_model(name, description="The headline of every state of a project")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return client.create_model_version(
        name,
        source=f"models:/{logged.model_id}",
        run_id=identity,
        tags={_DIGEST: seen},
        description=card,
        model_id=logged.model_id,
    )


def _save(trained: "Trained", folder: Path, out: Path) -> None:
    """Write the model in MLflow's format, so that torch, timm and mlflow are all it needs."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec
    from mlflow.types.schema import Array

    from semimae.inference.exports import export

    dataset = trained.info.dataset
    # The one signature through which MLflow passes numbers as they are, and text as well. One of
    # uint8 would cut 0.5 to 0.
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
        timm_folder = Path(temporary) / "timm"
        timm_folder.mkdir()
        export(trained, "timm", timm_folder)
        with warnings.catch_warnings():  # MLflow warns of type hints, its own among them
            warnings.simplefilter("ignore", UserWarning)
            import mlflow.pyfunc

            mlflow.pyfunc.save_model(
                out,
                python_model=str(Path(__file__).with_name("served.py")),
                artifacts={"timm": str(timm_folder)},
                signature=signature,
                input_example=np.array([_example(dataset.image_size)], dtype=object),
                model_config={"cache_size": dataset.cache_size},
                pip_requirements=[f"{name}=={_public_version(name)}" for name in _NEEDED],
                metadata={"classes": list(dataset.class_names)},
            )
    card = model_card(trained, folder, [])
    (out / CARD).write_text(card, encoding="utf-8")


def _example(size: int) -> str:
    """Return a gray ramp as a PNG file in base64."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((size, size)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _public_version(package: str) -> str:
    """Return the version that is installed, without its build, which no package index has."""
    return installed(package).partition("+")[0]
