"""Overlays: how a recipe and its base become one params file."""

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from support import REPO

from pipeline.overlay import FREE_FORM, complete, read
from semimae.options.grid import AblationConfig
from semimae.options.params import Params
from semimae.types import UserError

BASE = """\
# The base's header is not the recipe's.
seed: 0 # key of all
rate: 2e-3

mim: # a section
  name: mae # mae | simmim
  weight: 1.0 # how much
  depth: null

fine_tune:
  optim:
    lr: 1e-4
    betas: [0.9, 0.999]
  steps: 100

ablation:
  seed: [0, 1, 2] # a list
  time_factor: {mae: 1.5} # free
  changes: {} # variant: section: field: value
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(BASE)
    return tmp_path


def completed(folder: Path, overlay: str) -> str:
    path = folder / "recipe.yaml"
    path.write_text(overlay)
    return complete(path)


def test_an_empty_overlay_is_its_base_under_its_own_header(folder: Path) -> None:
    text = completed(folder, "# Mine.\n#\n# Source: ours.\nbase: base\n")
    assert text == "# Mine.\n#\n# Source: ours.\n" + BASE.partition("\n")[2]


def test_a_file_without_a_base_is_complete_as_it_is(folder: Path) -> None:
    odd = '# Mine.\n{"seed":   0}\n'
    assert completed(folder, odd) == odd


def test_values_replace_those_of_the_base_and_sections_merge(folder: Path) -> None:
    overlay = """\
# Mine.
base: base
rate: 1e-3
seed: 1000000
mim:
  depth: 3 # blocks
fine_tune:
  optim:
    betas: [0.9]
ablation:
  seed:
    - 5
    - 6
"""
    expected = """\
# Mine.
seed: 1000000 # key of all
rate: 1e-3

mim: # a section
  name: mae # mae | simmim
  weight: 1.0 # how much
  depth: 3 # blocks

fine_tune:
  optim:
    lr: 1e-4
    betas: [0.9]
  steps: 100

ablation:
  seed: # a list
    - 5
    - 6
  time_factor: {mae: 1.5} # free
  changes: {} # variant: section: field: value
"""
    assert completed(folder, overlay) == expected


def test_a_comment_of_the_overlay_takes_the_place_of_the_bases(folder: Path) -> None:
    text = completed(
        folder, "base: base\nseed: 7 # lucky\nmim:\n  weight: 2.0 # twice\n\nrate: 3\n"
    )
    assert "seed: 7 # lucky\n" in text
    assert "  weight: 2.0 # twice\n" in text
    assert "key of all" not in text
    assert text.count("\n\n") == BASE.count("\n\n")


def test_comments_on_lines_of_their_own_do_no_harm(folder: Path) -> None:
    text = completed(folder, "base: base\n# odd\nmim:\n  # why\n  weight: 2.0\n# end\n")
    values = YAML(typ="safe").load(BASE)
    values["mim"]["weight"] = 2.0
    assert YAML(typ="safe").load(text) == values
    assert "mim: # a section\n" in text


def test_mappings_without_fields_are_replaced_as_a_whole(folder: Path) -> None:
    overlay = """\
base: base
ablation:
  time_factor: {ssmae: 2.0}
  changes:
    heavy:
      mim: {weight: 30.0}
"""
    text = completed(folder, overlay)
    tree = YAML(typ="safe").load(text)["ablation"]
    assert tree["time_factor"] == {"ssmae": 2.0}
    assert tree["changes"] == {"heavy": {"mim": {"weight": 30.0}}}
    assert text.endswith(
        "  changes: # variant: section: field: value\n    heavy:\n      mim: {weight: 30.0}\n"
    )


def test_they_are_those_of_the_grid() -> None:
    fields = AblationConfig.model_fields.items()
    assert {name for name, field in fields if "dict" in str(field.annotation)} == FREE_FORM


def test_a_section_whose_name_changes_is_replaced_as_a_whole(folder: Path) -> None:
    text = completed(folder, "base: base\nmim:\n  name: simmim\n  mask_unit: 1\n")
    assert YAML(typ="safe").load(text)["mim"] == {"name": "simmim", "mask_unit": 1}
    same = completed(folder, "base: base\nmim: {name: mae, depth: 2}\n")
    assert YAML(typ="safe").load(same)["mim"] == {"name": "mae", "weight": 1.0, "depth": 2}


def test_a_base_may_have_a_base_in_another_folder(folder: Path) -> None:
    (folder / "recipes").mkdir()
    (folder / "recipes/middle.yaml").write_text("base: ../base\nseed: 1\nrate: 1\n")
    text = completed(folder, "base: recipes/middle\nrate: 2\n")
    assert text.startswith("seed: 1 # key of all\nrate: 2\n")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a", "base: bas\n", "a.yaml: base: got 'bas', but .*bas.yaml is missing (did you mean"),
        ("a", "base: null\n", "a.yaml: base: got 'None', but .*None.yaml is missing."),
        ("a", "base: a\n", "a.yaml: base: got 'a', which is itself based on this file; "),
        ("a", "base: b\n", "b.yaml: base: got 'a', which is itself based on this file; "),
        ("a", "- base\n", "a.yaml holds CommentedSeq; it must hold keys and values."),
        ("a", "", "a.yaml holds NoneType; it must hold keys and values."),
        ("a", "base: c\n", "c.yaml is not valid YAML: "),
        ("a", "base: base\nbase: base\n", "a.yaml is not valid YAML: "),
        ("nowhere", None, "nowhere.yaml cannot be read (No such file or directory)."),
    ],
)
def test_what_cannot_be_completed(folder: Path, name: str, text: str | None, message: str) -> None:
    (folder / "b.yaml").write_text("base: a\n")
    (folder / "c.yaml").write_text("seed: [\n")
    if text is not None:
        (folder / f"{name}.yaml").write_text(text)
    pattern = re.escape(message).replace(r"\.\*", ".*")
    with pytest.raises(UserError, match=f"^{re.escape(str(folder))}/{pattern}"):
        complete(folder / f"{name}.yaml")


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ("optim: {learning_rate: 1}", "optim.learning_rate: unknown key"),
        ("mask_ration: 0.5", "mask_ration: unknown key (did you mean 'mask_ratio'?)"),
        ("train: {mu: 0}", "train.mu: got 0"),
        ("optim: 3", "optim: got 3"),
        ("mim: {name: simmim}", "mim.lambda_mim: missing; every key is required"),
    ],
)
def test_settings_are_checked_and_the_recipe_is_named(
    tmp_path: Path, overlay: str, message: str
) -> None:
    (tmp_path / "defaults.yaml").write_text((REPO / "params.yaml").read_text())
    path = tmp_path / "mine.yaml"
    path.write_text(f"base: defaults\n{overlay}\n")
    with pytest.raises(UserError, match=re.escape(f"{path}: {message}")) as error:
        read(path)
    assert "\n" not in str(error.value)


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    path = REPO / "recipes/remedies_cifar10_cpu.yaml"
    written = tmp_path / "params.yaml"
    written.write_text(complete(path))
    assert Params.read(written) == read(path)
