from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import changed_params, small_rhythm

from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.engine.checkpoint import Checkpoints, Row
from semimae.engine.infer import infer
from semimae.evaluation.fine_tune import fine_tune
from semimae.evaluation.metrics import Scores, score
from semimae.model import SemiModel, model_of
from semimae.options.cell import Cell
from semimae.options.evaluation import FineTuneConfig
from semimae.types import Interrupted

MakeCell = Callable[..., Cell]


def config(**changes: object) -> FineTuneConfig:
    options: dict[str, object] = {"steps": 5, "batch_size": 8, "reset_head": False}
    options |= {"optim__warmup_steps": 1} | changes
    return changed_params(**{f"fine_tune__{k}": v for k, v in options.items()}).fine_tune


class Tuning:
    """Fine-tune a fresh model of a cell; keep what was said and what it ended as."""

    def __init__(
        self,
        cell: Cell,
        prepared: Prepared,
        split: Split,
        folder: Path,
        options: FineTuneConfig,
        stop_at: int | None = None,
    ) -> None:
        self.rows: list[tuple[str, Row]] = []
        self.model: SemiModel = model_of(cell, prepared)
        self.before = {k: v.clone() for k, v in self.model.state_dict().items()}
        asked = iter(range(1, 1000))
        self.result: dict[str, Any] = fine_tune(
            self.model,
            cell,
            prepared,
            split,
            options,
            small_rhythm(),
            checkpoints=Checkpoints(folder),
            on_row=lambda kind, row: self.rows.append((kind, row)),
            should_stop=lambda: next(asked) == stop_at,
        )

    def moved(self) -> dict[str, float]:
        """Largest change of each of the backbone's weights."""
        after = self.model.state_dict()
        return {
            name: (after[name] - value).abs().max().item()
            for name, value in self.before.items()
            if name.startswith("backbone.")
        }


@pytest.fixture
def tune(
    small_cell: MakeCell, digits: Prepared, digits_split: Split, tmp_path: Path
) -> Callable[..., Tuning]:
    def run(
        options: FineTuneConfig,
        *,
        cell: Cell | None = None,
        prepared: Prepared = digits,
        folder: str = "a",
        stop_at: int | None = None,
    ) -> Tuning:
        return Tuning(
            cell or small_cell("semi_mae"),
            prepared,
            digits_split,
            tmp_path / folder,
            options,
            stop_at,
        )

    return run


def test_all_weights_of_the_backbone_move_and_the_decoder_s_do_not(
    tune: Callable[..., Tuning],
) -> None:
    run = tune(config())
    moved = run.moved()
    fixed = {"backbone.vit.pos_embed"}  # sine-cosine
    assert {name for name, change in moved.items() if change == 0} == fixed
    after = run.model.state_dict()
    decoder = [name for name in run.before if name.startswith("mim.")]
    assert decoder
    assert all(torch.equal(after[name], run.before[name]) for name in decoder)


def test_lower_layers_move_less(tune: Callable[..., Tuning]) -> None:
    """Adam's first steps are as long as the learning rate, which shows each layer's own."""
    steep = tune(config(optim__layer_decay=0.1), folder="steep").moved()
    flat = tune(config(optim__layer_decay=1.0), folder="flat").moved()

    def ratio(name: str) -> float:
        return steep[f"backbone.vit.{name}"] / flat[f"backbone.vit.{name}"]

    assert ratio("head.weight") == pytest.approx(1, rel=0.3)
    assert ratio("blocks.1.mlp.fc2.weight") == pytest.approx(0.1, rel=0.3)
    assert ratio("blocks.0.mlp.fc2.weight") == pytest.approx(0.01, rel=0.3)
    assert ratio("patch_embed.proj.weight") == pytest.approx(0.001, rel=0.3)


def test_labeled_images_are_regularized_as_fine_tuning_asks(
    tune: Callable[..., Tuning], small_cell: MakeCell
) -> None:
    plain = tune(config(), folder="plain")
    cell = small_cell("semi_mae", labeled__mixup=0.8, labeled__smoothing=0.1)
    assert tune(config(), cell=cell, folder="cell").result == plain.result
    options = config(labeled__cutmix=1.0, labeled__smoothing=0.1)
    assert tune(options, folder="mixed").result != plain.result


def test_it_uses_its_own_options_and_not_those_of_training(
    tune: Callable[..., Tuning], small_cell: MakeCell
) -> None:
    options = config(steps=4)
    one = tune(options, folder="one")
    assert one.rows[-1][1]["step"] == 4
    cell = small_cell("semi_mae", train__steps=99, train__batch_size=3, optim__lr=0.5)
    other = tune(options, cell=cell, folder="other")
    assert one.result == other.result
    names = {name for kind, row in one.rows if kind == "train" for name in row}
    assert {n for n in names if n.startswith("loss/")} == {"loss/supervised", "loss/total"}


@pytest.mark.parametrize(("decay", "equal"), [(0.0, True), (0.999, False)])
def test_the_average_is_scored_on_all_test_images(
    decay: float,
    equal: bool,
    tune: Callable[..., Tuning],
    small_cell: MakeCell,
    digits: Prepared,
    digits_split: Split,
) -> None:
    """Without memory the average is the model itself."""
    run = tune(config(ema_decay=decay))
    outputs = infer(run.model, small_cell("semi_mae"), digits, digits_split.test(digits))
    of_model = score(outputs.probabilities.numpy(), outputs.labels.numpy())
    protocols = run.result["protocols"]
    assert protocols.keys() == {"fine_tune"}
    scores = Scores.model_validate(protocols["fine_tune"])
    assert (scores == of_model) == equal
    assert scores.num_images == (digits.splits == "test").sum()


def test_the_test_set_is_only_scored(tune: Callable[..., Tuning], digits: Prepared) -> None:
    """Other test images and labels change the scores, not the weights and not the curve."""
    assert digits.images is not None
    images, labels = np.array(digits.images), digits.labels.copy()
    test = digits.splits == "test"
    images[test] = 255 - images[test]
    labels[test] = (labels[test] + 1) % 10
    other = Prepared(digits.info, digits.names, labels, digits.splits, images)
    one = tune(config(), folder="one")
    two = tune(config(), prepared=other, folder="two")
    assert one.result["validation"] == two.result["validation"]
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, two.model.state_dict()[name]), name
    assert one.result["protocols"] != two.result["protocols"]


def test_the_curve_is_that_of_the_validation_split(tune: Callable[..., Tuning]) -> None:
    run = tune(config(steps=5))
    curve = run.result["validation"]
    assert [row["step"] for row in curve] == [3, 5]  # train.eval_every is 3
    assert all(row.keys() == {"step", "val/top1", "val/loss"} for row in curve)
    told = [row for kind, row in run.rows if kind == "val"]
    assert [row["val/top1"] for row in curve] == [row["val/top1"] for row in told]


def test_it_continues_after_an_interruption(tune: Callable[..., Tuning]) -> None:
    options = config(steps=6)
    whole = tune(options, folder="whole")
    with pytest.raises(Interrupted):
        tune(options, folder="parts", stop_at=4)
    parts = tune(options, folder="parts")
    assert parts.result == whole.result
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, parts.model.state_dict()[name]), name


def test_a_fresh_head_depends_on_the_seed_and_not_on_the_process(
    tune: Callable[..., Tuning], small_cell: MakeCell
) -> None:
    """Weights are drawn from the cell's seed; the rate of the only step is 0."""
    options = config(reset_head=True).model_copy(update={"steps": 1})
    heads = []
    for i, cell in enumerate([small_cell("semi_mae"), small_cell("semi_mae"), None]):
        torch.manual_seed(i)
        state = torch.get_rng_state()
        run = tune(options, cell=cell or small_cell("semi_mae", seed=1), folder=str(i))
        assert torch.equal(torch.get_rng_state(), state)
        heads.append(run.model.state_dict()["backbone.vit.head.weight"])
        assert not torch.equal(heads[-1], run.before["backbone.vit.head.weight"])
        moved = run.moved()
        assert all(moved[name] == 0 for name in moved if ".head." not in name)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_without_it_the_trained_head_is_kept(tune: Callable[..., Tuning]) -> None:
    moved = tune(config().model_copy(update={"steps": 1})).moved()
    assert moved["backbone.vit.head.weight"] == 0


def test_a_stop_while_the_test_set_is_scored_loses_no_step(
    tune: Callable[..., Tuning], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = config(steps=4)
    monkeypatch.setattr("semimae.engine.infer.EVAL_BATCH", 40)
    whole = tune(options, folder="whole")
    # Once per step; in both evaluations, which run both models, before each batch but the first.
    asked_while_tuning = 4 + 2 * 5
    with pytest.raises(Interrupted, match="while scoring"):
        tune(options, folder="parts", stop_at=asked_while_tuning + 3)
    assert (tmp_path / "parts" / "step-000000004.json").is_file()
    again = tune(options, folder="parts")
    assert again.result == whole.result
