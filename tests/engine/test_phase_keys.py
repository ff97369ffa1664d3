"""When may two cells share a finished phase? If it would give the same weights, and only then."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support import small_rhythm

from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.engine.phases import fit_phases
from semimae.options.cell import Cell

MakeCell = Callable[..., Cell]


@pytest.fixture
def finish(digits: Prepared, digits_split: Split, tmp_path: Path) -> Callable[[Cell], set[str]]:
    """Train a cell beside the earlier ones; return the phases that it added."""

    def run(cell: Cell) -> set[str]:
        finished = tmp_path / "finished"
        before = set(finished.glob("*.safetensors"))
        fit_phases(
            cell,
            digits,
            digits_split,
            small_rhythm(),
            resume=tmp_path / "resume" / str(hash(cell.model_dump_json())),
            finished=lambda phase: finished,
            on_row=lambda kind, row: None,
            should_stop=lambda: False,
        )
        return {path.name for path in set(finished.glob("*.safetensors")) - before}

    return run


START = {"start__mae_steps": 3, "start__supervised_steps": 3, "train__steps": 2}


@pytest.mark.parametrize(
    ("change", "added"),
    [
        ({"mask_ratio": 0.5}, 2),
        ({"start__mae_steps": 4}, 2),
        ({"mim__decoder_dim": 16}, 2),
        ({"start__mae_steps": 0}, 1),
        ({"start__supervised_steps": 4}, 1),
        ({"pseudo_label__threshold": 0.123}, 0),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else None,
)
def test_a_phase_is_shared_if_all_that_leads_to_it_is_the_same(
    change: dict[str, object],
    added: int,
    small_cell: MakeCell,
    finish: Callable[[Cell], set[str]],
) -> None:
    """Supervised training after another pretraining is another phase."""
    assert len(finish(small_cell("semi_vit", **START))) == 2
    assert len(finish(small_cell("semi_vit", **(START | change)))) == added


def test_sharing_does_not_change_the_result(
    small_cell: MakeCell, digits: Prepared, digits_split: Split, tmp_path: Path
) -> None:
    def run(cell: Cell, folder: Path) -> torch.Tensor:
        state, _ = fit_phases(
            cell,
            digits,
            digits_split,
            small_rhythm(),
            resume=folder / "resume" / cell.name,
            finished=lambda phase: folder / "finished",
            on_row=lambda kind, row: None,
            should_stop=lambda: False,
        )
        return torch.cat([p.flatten() for p in state.ema.parameters()])

    one, other = (small_cell("semi_vit", mask_ratio=ratio, **START) for ratio in (0.5, 0.75))
    run(one, tmp_path / "together")
    together = run(other, tmp_path / "together")
    assert torch.equal(together, run(other, tmp_path / "alone"))
