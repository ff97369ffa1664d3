"""Fine-tuning of all weights on the labeled images."""

from collections.abc import Callable
from typing import Any

import torch

from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.engine.checkpoint import Checkpoints, Row
from semimae.engine.fit import fit
from semimae.engine.infer import infer
from semimae.evaluation.metrics import score
from semimae.model import SemiModel
from semimae.options.cell import Cell
from semimae.options.evaluation import FineTuneConfig
from semimae.options.method import SupervisedOptions
from semimae.options.train import Rhythm
from semimae.random import generator
from semimae.types import Interrupted


def fine_tune(
    model: SemiModel,
    cell: Cell,
    prepared: Prepared,
    split: Split,
    config: FineTuneConfig,
    rhythm: Rhythm,
    *,
    checkpoints: Checkpoints,
    on_row: Callable[[str, Row], None],
    should_stop: Callable[[], bool],
) -> dict[str, Any]:
    """Fine-tune a trained model with layer-wise learning-rate decay and evaluate the test set.

    This is the supervised method on the cell's own labeled images, with the optimizer and the
    regularization of ``config``. The final moving average is evaluated; nothing is selected.

    Returns:
        ``{"protocols": {"fine_tune": Scores}, "validation": curve}``.

    Source: arXiv:2111.06377, appendix A (end-to-end fine-tuning).
    """
    model = SemiModel(model.backbone, None)  # type: ignore[arg-type]  # without decoder
    if config.reset_head:
        with torch.random.fork_rng(devices=[]):  # nn.init draws from the global generator
            torch.manual_seed(generator(cell.seed, "head").initial_seed())
            model.backbone.reset_head()
    train = cell.train.model_copy(
        update={
            "steps": config.steps,
            "batch_size": config.batch_size,
            "ema_decay": config.ema_decay,
            "drop_path": config.drop_path,
        }
    )
    supervised = SupervisedOptions(name="supervised", labeled=config.labeled)
    if cell.backbone.tuning != "full":
        whole = cell.backbone.model_copy(update={"tuning": "full", "lora": None})
        cell = cell.model_copy(update={"backbone": whole})
    tuning = cell.model_copy(update={"options": supervised, "train": train, "optim": config.optim})
    state = fit(
        tuning,
        prepared,
        split,
        rhythm,
        checkpoints=checkpoints,
        on_row=on_row,
        should_stop=should_stop,
        start=model,
    )
    try:
        outputs = infer(state.ema, tuning, prepared, split.test(prepared), should_stop)
    except Interrupted:
        checkpoints.save(state)
        raise
    scores = score(outputs.probabilities.numpy(), outputs.labels.numpy())
    # Empty if the final model is trained on all labels.
    curve = [{k: row[k] for k in ("step", "val/top1", "val/loss")} for row in state.validation]
    return {"protocols": {"fine_tune": scores.model_dump()}, "validation": curve}
