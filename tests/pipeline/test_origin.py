import platform
from pathlib import Path

import torch
from support import REPO, changed_params

from pipeline.origin import origin
from pipeline.reporting.origin import read_origin
from pipeline.workspace import git_commit, write_json
from semimae.engine.flops import step_flops


def test_origin_names_code_machine_and_arithmetic(tmp_path: Path) -> None:
    cell = changed_params(method="fixmatch", train__steps=7).cell()
    found = origin(cell, REPO, 10)
    assert found["commit"] == git_commit(REPO)
    assert (found["device"], found["device_name"]) == ("cpu", platform.machine())
    assert (found["processes"], found["threads"]) == (1, torch.get_num_threads())
    assert found["flops"] == 7 * step_flops(cell, 10)
    write_json(tmp_path / "origin.json", found)
    read = read_origin(tmp_path)
    assert read.flops == found["flops"]
    assert read.machine == f"cpu ({platform.machine()}, {found['threads']} thread)"


def test_what_was_not_recorded_is_not_invented(tmp_path: Path) -> None:
    assert origin(changed_params().cell(), tmp_path, 10)["commit"] is None
    assert read_origin(tmp_path).machine == "not recorded"
