"""A run's folder as the stages leave it, in a fraction of a second: its weights are drawn."""

import json
from pathlib import Path
from typing import Any

from small_models import scramble
from support import changed_params

from semimae.data.store import Prepared
from semimae.evaluation.probe import probe
from semimae.ingest.choose import make_split
from semimae.ingest.prepare import prepare
from semimae.model import SemiModel, model_of
from semimae.model_file import save_model
from semimae.options.cell import Cell
from semimae.options.params import Params


class Project:
    """A folder with params.yaml, prepared images and a headline that is trained and scored."""

    def __init__(self, root: Path, images: Path | None = None, **changes: object) -> None:
        self.root, self.run = root, root / "runs" / "headline"
        self.run.mkdir(parents=True)
        (root / "dvc.yaml").touch()
        self.params(**changes)
        data = Params.read(root / "params.yaml").data
        dataset = str(changes.get("dataset", "digits"))
        prepare(dataset, data, images or root, root / "prepared")
        self.prepared = Prepared.read(root / "prepared", images or root)
        self.cell = Params.read(root / "params.yaml").cell()
        self.split = make_split(
            self.prepared,
            seed=0,
            num_labels=self.cell.num_labels,
            val_fraction=self.cell.data.val_fraction,
            include_labeled=True,
        )
        self.cell.write(self.run / "config.json")
        self.split.write(self.run / "split.json")
        self.model = self.train(seed=0)

    def params(self, **changes: object) -> None:
        """Write params.yaml."""
        (self.root / "params.yaml").write_text(changed_params(**changes).model_dump_json())

    def train(self, seed: int, temperature: float | None = None) -> SemiModel:
        """Write what training and scoring would, with weights that depend on ``seed``."""
        model = drawn_model(self.cell, self.prepared, seed)
        train = self.run / "train"
        train.mkdir(exist_ok=True)
        path = train / "model.safetensors"
        save_model(model, self.cell, self.prepared.info, path, temperature)
        row = {"step": 2, "loss/total": 1.0 + seed}
        self._write("train/history.json", [row])
        self._write("train/validation.json", [])
        self._write("train/timing.json", [{"step": 2, "time_ms": 1000, "seconds": 1.0}])
        options = Params.read(self.root / "params.yaml").linear_probe
        probed = probe(model, self.cell, self.prepared, self.split, options, temperature)
        self._write("linear_probe.json", probed.scores)
        return model

    def _write(self, name: str, value: Any) -> None:
        (self.run / name).write_text(json.dumps(value))


def drawn_model(cell: Cell, prepared: Prepared, seed: int = 0) -> SemiModel:
    """Return a cell's model with weights far from their first values."""
    model = model_of(cell, prepared)
    scramble(model, seed)
    return model.eval()
