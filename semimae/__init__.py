"""An implementation of Semi-MAE: semi-supervised Vision Transformers with a parallel MIM branch.

These names are all that a script or a notebook needs; see ``examples/one_process.py``. Each is
imported on first use, which keeps ``import semimae`` fast.

Reading order: ``params.yaml``, ``semimae/methods/semi_mae.py``, ``semimae/engine/loop.py``.
"""

from pkgutil import resolve_name
from typing import Any

__version__ = "0.1.0"
_NAMES = {
    "Params": "semimae.options.params",
    "Prepared": "semimae.data.store",
    "accuracy": "semimae.engine.infer",
    "fit": "semimae.training",
    "infer": "semimae.engine.infer",
    "open_model": "semimae.model_file",
    "predict_files": "semimae.inference.predict",
    "prepare": "semimae.ingest.prepare",
    "split_for": "semimae.ingest.choose",
}
__all__ = ["__version__", *_NAMES]


def __getattr__(name: str) -> Any:
    """Import a public name."""
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return resolve_name(f"{_NAMES[name]}:{name}")


def __dir__() -> list[str]:
    return sorted(__all__)
