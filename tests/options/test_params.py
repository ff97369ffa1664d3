import copy
import itertools
import json
import math
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from ruamel.yaml import YAML
from support import REPO, changed_params

from pipeline.overlay import complete
from semimae.engine.phases import phases
from semimae.methods.registry import build_method
from semimae.options.cell import Cell
from semimae.options.grid import GridPoint
from semimae.options.method import METHODS, SemiViTOptions
from semimae.options.params import Params
from semimae.types import UserError

PARAMS = REPO / "params.yaml"
TEXT = PARAMS.read_text()
TREE: dict[str, Any] = YAML(typ="safe").load(TEXT)
# Without NEL, which ruamel.yaml writes as a line break.
NO_NEL = st.characters(codec="utf-8", exclude_characters="\x85")
WITHOUT_RATIO = [name for name, cls in METHODS.items() if "mim" not in cls.model_fields]
WITH_RATIO = [name for name, cls in METHODS.items() if "mim" in cls.model_fields]


def leaves(tree: dict[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, (*prefix, key))
        else:
            yield (*prefix, key)


def sections(tree: dict[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield prefix
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from sections(value, (*prefix, key))


def put(path: tuple[str, ...], value: object) -> dict[str, Any]:
    """params.yaml with one value changed or added."""
    tree = copy.deepcopy(TREE)
    node = tree
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return tree


def write(folder: Path, content: str | dict[str, Any]) -> Path:
    path = folder / "params.yaml"
    if isinstance(content, str):
        path.write_text(content)
    else:
        yaml = YAML(typ="safe")
        yaml.default_flow_style = False  # a flow mapping with a key ":0" is not read back
        with path.open("w") as file:
            yaml.dump(content, file)
    return path


def refusal(folder: Path, content: str | dict[str, Any]) -> str:
    """The one line with which Params.read refuses."""
    path = write(folder, content)
    with pytest.raises(UserError) as caught:
        Params.read(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1, message
    return message


def attempt(path: Path) -> tuple[Params | None, str]:
    """Read parameters, or return why not; no other exception is allowed."""
    try:
        return Params.read(path), ""
    except UserError as error:
        return None, str(error)


def replaced(old: str, new: str) -> str:
    assert TEXT.count(old) == 1, f"{old!r} is not in params.yaml exactly once"
    return TEXT.replace(old, new)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("params")


# --- params.yaml itself


def models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType, typing.Annotated):
        return [m for part in typing.get_args(annotation) for m in models(part)]
    return []


def member(annotation: Any, tree: Any) -> type[BaseModel] | None:
    """The model that a section is of; of a union the one with the section's name."""
    found = models(annotation)
    if len(found) > 1:
        found = [
            m
            for m in found
            if typing.get_args(m.model_fields["name"].annotation)[0] == tree["name"]
        ]
    return found[0] if found else None


def compare(model: type[BaseModel], tree: dict[str, Any], where: str) -> None:
    assert tree.keys() == model.model_fields.keys(), where
    for name, field in model.model_fields.items():
        inner = member(field.annotation, tree[name])
        if inner is not None:
            compare(inner, tree[name], f"{where}.{name}")


def all_models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        for inner in models(field.annotation):
            yield from all_models(inner)


def test_params_yaml_states_every_field() -> None:
    compare(Params, TREE, "params.yaml")


def test_no_field_has_a_default_that_a_file_could_leave_unsaid() -> None:
    for model in all_models(Params):
        for name, field in model.model_fields.items():
            assert field.is_required(), f"{model.__name__}.{name}"


def test_every_field_says_what_it_is() -> None:
    for model in all_models(Params):
        for name, field in model.model_fields.items():
            assert models(field.annotation) or field.description, f"{model.__name__}.{name}"


def test_values_arrive_as_they_are_written() -> None:
    params = Params.read(PARAMS)
    assert json.loads(params.model_dump_json()) == json.loads(json.dumps(TREE))


@pytest.mark.parametrize("path", sorted((REPO / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_recipe_stands_for_a_complete_params_file(path: Path) -> None:
    text = complete(path)
    assert Params.parse(text, path).cell()
    compare(Params, YAML(typ="safe").load(text), path.name)


# --- refusals


@pytest.mark.parametrize(
    ("path", "typo", "expected"),
    [
        (("mask_ratio",), "mask_ration", "mask_ration: unknown key (did you mean 'mask_ratio'?)"),
        (("optim",), "optm", "optm: unknown key (did you mean 'optim'?)"),
        (("train", "steps"), "step", "train.step: unknown key (did you mean 'steps'?)"),
        (("mim", "decoder_dim"), "dim", "mim.dim: unknown key"),
        (("backbone", "depth"), "depths", "did you mean 'depth'?"),
        (
            ("fine_tune", "optim", "lr"),
            "Lr",
            "fine_tune.optim.Lr: unknown key (did you mean 'lr'?)",
        ),
    ],
)
def test_an_unknown_key_in_the_place_of_a_missing_one_is_the_one_to_name(
    path: tuple[str, ...], typo: str, expected: str, folder: Path
) -> None:
    tree = copy.deepcopy(TREE)
    section = tree
    for part in path[:-1]:
        section = section[part]
    section[typo] = section.pop(path[-1])
    assert expected in refusal(folder, tree)


def test_of_two_mistakes_the_typo_beside_the_missing_key_is_named(folder: Path) -> None:
    tree = copy.deepcopy(TREE)
    tree["linear_probe"]["zzz"] = 1
    tree["train"]["step"] = tree["train"].pop("steps")
    assert "train.step: unknown key" in refusal(folder, tree)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (("mask_ration",), "mask_ration: unknown key (did you mean 'mask_ratio'?)"),
        (("optim", "learning_rate"), "optim.learning_rate: unknown key"),
        (("optim", "warmup"), "optim.warmup: unknown key (did you mean 'warmup_steps'?)"),
        (("fine_tune", "optim", "lrr"), "fine_tune.optim.lrr: unknown key (did you mean 'lr'?)"),
        (("backbone", "embed_dims"), "(did you mean 'embed_dim'?)"),
        (("mim", "decoder_head"), "(did you mean 'decoder_heads'?)"),
        (("zzz",), "zzz: unknown key"),
    ],
)
def test_an_unknown_key(path: tuple[str, ...], expected: str, folder: Path) -> None:
    message = refusal(folder, put(path, 1))
    assert expected in message
    assert ".".join(path) in message


def test_a_key_like_no_other_gets_no_suggestion(folder: Path) -> None:
    assert "did you mean" not in refusal(folder, put(("zzz",), 1))


@pytest.mark.parametrize(
    ("path", "value", "got"),
    [
        (("mask_ratio",), "high", "'high'"),
        (("mask_ratio",), True, "True"),
        (("seed",), 1.5, "1.5"),
        (("seed",), "0", "'0'"),
        (("data", "hflip"), 1, "1"),
        (("data", "image_size"), None, "None"),
        (("optim", "lr"), "1e-3", "'1e-3'"),
        (("optim", "betas"), 0.9, "0.9"),
        (("ablation", "seed"), 3, "3"),
        (("fine_tune", "optim", "grad_clip"), [1], "[1]"),
    ],
)
def test_a_wrong_type(path: tuple[str, ...], value: object, got: str, folder: Path) -> None:
    message = refusal(folder, put(path, value))
    assert f"{'.'.join(path)}: got {got}; it must be" in message


@pytest.mark.parametrize(
    ("path", "value", "allowed"),
    [
        (("mask_ratio",), 0, "greater than 0"),
        (("mask_ratio",), 1.0, "less than 1"),
        (("label_fraction",), 1.01, "less than or equal to 1"),
        (("seed",), -1, "greater than or equal to 0"),
        (("seed",), 2**31, "less than 2147483648"),
        (("train", "steps"), 0, "greater than or equal to 1"),
        (("optim", "lr"), float("inf"), "finite"),
        (("optim", "lr"), float("nan"), "finite"),
        (("pseudo_label", "threshold"), 1.5, "less than or equal to 1"),
        (("data", "channels"), 2, "1 or 3"),
        (("train", "device"), "tpu", "'cuda'"),
        (("dataset",), "mnist", "'digits'"),
        (("ablation", "seed"), [], "at least 1"),
    ],
)
def test_out_of_range(path: tuple[str, ...], value: object, allowed: str, folder: Path) -> None:
    message = refusal(folder, put(path, value))
    assert f"{'.'.join(path)}: got {value!r}" in message
    assert allowed in message


def test_one_of_several_values_is_named_by_its_place(folder: Path) -> None:
    message = refusal(folder, put(("ablation", "mask_ratio"), [0.5, 1.5]))
    assert "ablation.mask_ratio.1: got 1.5" in message
    assert "optim.betas.0: got 1.5" in refusal(folder, put(("optim", "betas"), [1.5, 0.9]))


def test_a_missing_field(folder: Path) -> None:
    tree = copy.deepcopy(TREE)
    del tree["optim"]["lr"]
    assert "optim.lr: missing; every key is required" in refusal(folder, tree)


@pytest.mark.parametrize("where", ["method", "ablation"])
def test_an_unknown_method_is_answered_with_the_known_ones(where: str, folder: Path) -> None:
    path, value = (
        (("method",), "fixmach") if where == "method" else (("ablation", "method"), ["fixmach"])
    )
    message = refusal(folder, put(path, value))
    assert "fixmach" in message
    assert all(name in message for name in METHODS)


@pytest.mark.parametrize(
    ("path", "known"), [(("backbone", "name"), "vit"), (("mim", "name"), "mae")]
)
def test_an_unknown_member_of_a_union(path: tuple[str, ...], known: str, folder: Path) -> None:
    message = refusal(folder, put(path, "resnet"))
    assert ".".join(path) in message
    assert "resnet" in message
    assert f"'{known}'" in message


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"data.crop_padding": 12}, "data.crop_padding=12 must be less than image_size=12"),
        ({"data.mean": [0.5, 0.5]}, "data.mean has 2 values for channels=1; give one per channel"),
        ({"data.std": [0.5] * 3}, "data.std has 3 values for channels=1; give one per channel"),
        ({"data.image_size": 14}, "data.image_size=14 is not a multiple of backbone.patch_size=4"),
        (
            {"backbone.num_heads": 5},
            "backbone.embed_dim=64 is not a multiple of num_heads=5",
        ),
        (
            {"backbone.embed_dim": 18, "backbone.num_heads": 1},
            "backbone.embed_dim=18 is not a multiple of 4, which pos_embed=sincos needs",
        ),
        ({"backbone.weights": "timm:default"}, "backbone.weights=timm:default needs backbone.name"),
        (
            {"mim.decoder_heads": 5},
            "mim.decoder_dim=48 must be a multiple of 4 and of decoder_heads",
        ),
        ({"mim.decoder_dim": 50, "mim.decoder_heads": 1}, "mim.decoder_dim=50 must be a multiple"),
        (
            {"backbone.patch_size": 1},
            "mim.target=norm_pixels needs more than one value in a patch",
        ),
        ({"mim.mask_unit": 2}, "mim.mask_unit=2 does not divide the 3 patches along a side"),
        ({"optim.min_lr": 0.1}, "optim.min_lr=0.1 is above lr=0.002"),
        ({"fine_tune.optim.min_lr": 0.1}, "fine_tune.optim.min_lr=0.1 is above lr=0.0005"),
        ({"optim.warmup_steps": 240}, "optim.warmup_steps=240 must be less than train.steps=240"),
        (
            {"method": "semi_vit", "optim.warmup_steps": 50},
            "optim.warmup_steps=50 must be less than start.supervised_steps=50",
        ),
        (
            {"method": "mae_finetune", "optim.warmup_steps": 200},
            "optim.warmup_steps=200 must be less than start.mae_steps=200",
        ),
        (
            {"fine_tune.steps": 10},
            "fine_tune.optim.warmup_steps=10 must be less than fine_tune.steps=10",
        ),
        (
            {"ablation.seed": list(range(2000))},
            "ablation has 24000 combinations; allowed: up to 10000",
        ),
    ],
)
def test_keys_that_do_not_go_together(
    changes: dict[str, object], expected: str, folder: Path
) -> None:
    tree = copy.deepcopy(TREE)
    for path, value in changes.items():
        *sections, key = path.split(".")
        node = tree
        for part in sections:
            node = node[part]
        node[key] = value
    assert expected in refusal(folder, tree)


@pytest.mark.parametrize("key", ["\nseed: ", "\n  name: vit", "\n  name: mae", "\n  changes:"])
def test_aliases_that_multiply_are_not_written_out(key: str, folder: Path) -> None:
    bomb = "".join(
        f"- &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in itertools.pairwise("abcdefghijkl")
    )
    assert TEXT.count(key) == 1
    message = refusal(
        folder, f"bomb:\n- &a [x, x]\n{bomb}" + replaced(key, f"{key.partition(':')[0]}: *l #")
    )
    assert "aliases (*name) that stand for more than 100,000 values" in message


def test_an_alias_that_holds_itself(folder: Path) -> None:
    message = refusal(folder, replaced("\n  name: vit", "\n  name: &a [*a] #"))
    assert "aliases (*name) that stand for" in message


def test_a_duplicate_key(folder: Path) -> None:
    message = refusal(folder, TEXT + "\nseed: 1\n")
    assert "not valid YAML" in message
    assert "seed" in message


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"params\.yaml is missing; create one with"):
        Params.read(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    "content", ["", "just words", "- 1\n- 2\n", "seed: [1, 2", "\tseed: 0", "a: !!python/name:os.x"]
)
def test_what_is_no_params_file_at_all(content: str, folder: Path) -> None:
    assert "params.yaml" in refusal(folder, content)


def test_bytes_that_are_no_text(folder: Path) -> None:
    path = folder / "params.yaml"
    path.write_bytes(TEXT.encode() + b"\xff\xfe")
    with pytest.raises(UserError, match="not valid YAML"):
        Params.read(path)


@pytest.mark.parametrize("value", ["2020-13-45", "!!int x", "0x_", "1" * 5000, "*anchor"])
def test_a_value_that_yaml_itself_cannot_read(value: str, folder: Path) -> None:
    assert "not valid YAML" in refusal(folder, replaced("\nseed: 0\n", f"\nseed: {value}\n"))


def test_a_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        Params.read(tmp_path)


def test_numbers_are_yaml_1_2(folder: Path) -> None:
    lines = ["optim.lr: 1e-2", "optim.lr: 1E-2", "optim.lr: .01"]
    for line in lines:
        tree = YAML(typ="safe").load(line.split(": ")[1])
        assert Params.read(write(folder, put(("optim", "lr"), tree))).optim.lr == 0.01
    text = replaced("\n  lr: 2e-3", "\n  lr: 1e-2")
    assert Params.read(write(folder, text)).optim.lr == 0.01
    assert "data.hflip: got 'no'" in refusal(folder, replaced("\n  hflip: false", "\n  hflip: no"))


def test_a_mask_ratio_that_hides_nothing_is_refused_before_anything_is_run(folder: Path) -> None:
    tree = put(("ablation", "mask_ratio"), [0.5, 0.001])
    assert "mask_ratio=0.001 hides 0 of" in refusal(folder, tree)
    tree = put(("mask_ratio",), 0.001)
    assert "mask_ratio=0.001 hides 0 of" in refusal(folder, tree)


# --- whatever the value: parameters, or one line


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
values = (
    scalars
    | st.lists(scalars, max_size=3)
    | st.dictionaries(st.text(max_size=5), scalars, max_size=2)
    | st.lists(st.lists(scalars, max_size=2), min_size=1, max_size=2)
)
few = settings(max_examples=50, deadline=None)


@few
@given(path=st.sampled_from(sorted(leaves(TREE))), value=values)
def test_any_value_is_taken_or_refused_in_one_line(
    path: tuple[str, ...], value: object, folder: Path
) -> None:
    params, message = attempt(write(folder, put(path, value)))
    if params is None:
        assert len(message.splitlines()) == 1, message
    else:
        got: Any = params.model_dump()
        for key in path:
            got = got[key]
        assert got == value or list(got) == value


@few
@given(path=st.sampled_from(sorted(leaves(TREE))))
def test_a_mapping_is_never_a_value(path: tuple[str, ...], folder: Path) -> None:
    message = refusal(folder, put(path, {"a": 1}))
    assert ".".join(path) in message


@few
@given(
    where=st.sampled_from(sorted(sections(TREE))),
    key=st.text(NO_NEL, min_size=1, max_size=12),
)
def test_any_unknown_key_is_refused_in_one_line(
    where: tuple[str, ...], key: str, folder: Path
) -> None:
    node = TREE
    for part in where:
        node = node[part]
    free = [("ablation", "changes"), ("start", "mae"), ("start", "supervised")]
    if key not in node and where not in free:  # whose keys are free, or checked with their values
        assert "unknown key" in refusal(folder, put((*where, key), 1))


# --- equal time


def test_steps_of_all_phases_are_multiplied_at_equal_time() -> None:
    factors = {"supervised": 2.5, "semi_vit": 0.5}
    params = changed_params(
        ablation__method=["supervised", "semi_vit"],
        ablation__budget=["images", "time"],
        ablation__time_factor=factors,
        start__mae_steps=10,
        start__supervised_steps=0,
        train__steps=8,
    )
    assert params.cell("supervised", budget="time").train.steps == 20
    cell = params.cell("semi_vit", budget="time")
    assert [(p.method, p.train.steps) for p in phases(cell)] == [("mae", 5), ("semi_vit", 4)]
    assert isinstance(cell.options, SemiViTOptions)
    assert cell.options.start is not None
    assert cell.options.start.supervised_steps == 0
    assert params.cell("semi_vit").train.steps == 8
    with pytest.raises(UserError, match="time_factor has no fixmatch, which budget time needs"):
        params.cell("fixmatch", budget="time")
    assert len(params.grid()) == len(params.grid("images")) + len(params.grid("time"))
    same = changed_params(ablation__budget=["images", "time"], ablation__time_factor=SAME)
    assert list(same.grid()) == list(same.grid("images")) == list(same.grid("time"))


SAME = {"supervised": 1.0, "fixmatch": 1.0, "semi_mae": 1.0}


@pytest.mark.parametrize(
    ("section", "words"),
    [
        (
            {"budget": ["time"], "time_factor": SAME},
            "params.yaml: ablation.budget must include images;",
        ),
        (
            {"budget": ["images", "time"]},
            ": ablation.time_factor lacks supervised, fixmatch, semi_mae;",
        ),
        ({"budget": ["images", "hours"]}, "ablation.budget.1: got 'hours'"),
        (
            {"time_factor": {"fixmach": 1.0}},
            ": ablation.time_factor.fixmach: unknown key (did you mean 'fixmatch'?)",
        ),
        ({"time_factor": {"fixmatch": 0.0}}, "ablation.time_factor: got 0.0"),
    ],
)
def test_a_budget_without_sense_is_refused(
    section: dict[str, Any], words: str, folder: Path
) -> None:
    tree = copy.deepcopy(TREE)
    tree["ablation"] |= section
    assert words in refusal(folder, tree)


# --- cells


@pytest.mark.parametrize("method", WITHOUT_RATIO)
def test_methods_without_a_mask_ratio_have_one_cell_for_all_ratios(method: str) -> None:
    params = changed_params()
    one, other = (params.cell(method, ratio, 0.1, 0) for ratio in (0.5, 0.75))
    assert one == other
    assert one.model_dump_json() == other.model_dump_json()
    assert one.mask_ratio is None
    assert one.mim is None


@pytest.mark.parametrize("method", WITH_RATIO)
def test_methods_with_a_mask_ratio_have_one_cell_per_ratio(method: str) -> None:
    params = changed_params()
    one, other = (params.cell(method, ratio, 0.1, 0) for ratio in (0.5, 0.75))
    assert (one.mask_ratio, other.mask_ratio) == (0.5, 0.75)
    assert one != other


@pytest.mark.parametrize("method", WITH_RATIO)
def test_the_weight_of_the_reconstruction_makes_a_cell_where_it_weighs_something(
    method: str,
) -> None:
    cell, heavy = (changed_params(method=method, mim__lambda_mim=w).cell() for w in (2.0, 30.0))
    weights, heavier = (
        [build_method(p.options, 10, 8).weights for p in phases(c)] for c in (cell, heavy)
    )
    assert (cell == heavy) == (weights == heavier)
    assert (cell != heavy) == (method in {"semi_mae", "ssmae"})


def test_a_cell_is_blind_to_what_comes_after_training() -> None:
    cell = changed_params().cell()
    assert (
        cell
        == changed_params(
            linear_probe__knn_k=3,
            fine_tune__steps=77,
            tracking__experiment="other",
            ablation__seed=[9],
        ).cell()
    )
    assert cell != changed_params(seed=1).cell()
    assert cell != changed_params(optim__lr=0.5).cell()


def test_the_grid_holds_each_cell_once() -> None:
    params = changed_params(
        ablation__method=["supervised", "fixmatch", "semi_mae"],
        ablation__mask_ratio=[0.5, 0.75],
        ablation__label_fraction=[0.1, 0.2],
        ablation__seed=[0, 1, 1],
    )
    grid = params.grid()
    names = [cell.name for cell in grid]
    assert len(set(names)) == len(names) == 2 * 2 + 2 * 2 + 2 * 2 * 2
    assert names[:3] == ["supervised f0.1 s0", "supervised f0.1 s1", "supervised f0.2 s0"]
    assert names[-1] == "semi_mae m0.75 f0.2 s1"


def test_the_headline_may_be_a_cell_of_the_grid() -> None:
    params = changed_params(
        label_fraction=0.1,
        num_labels=None,
        ablation__method=["semi_mae"],
        ablation__label_fraction=[0.1],
        ablation__mask_ratio=[0.75],
        ablation__seed=[0],
    )
    assert list(params.grid()) == [params.cell()]


def test_without_folds_refit_concerns_the_headline_alone() -> None:
    params = changed_params(refit=True)
    assert params.cell().refit
    assert not any(cell.refit for cell in params.grid())
    assert params.cell().name.endswith(" refit")
    plain = changed_params()
    assert params.cell().once == plain.cell()
    assert list(params.grid()) == list(plain.grid())


def test_with_folds_every_setting_ends_with_all_labels() -> None:
    params = changed_params(
        refit=True,
        data__folds=5,
        label_fraction=0.1,
        num_labels=None,
        ablation__method=["supervised", "semi_mae"],
        ablation__label_fraction=[0.1],
    )
    assert all(cell.refit and cell.trainings == 6 for cell in params.grid())
    assert params.cell() in params.grid()  # so that choosing it trains nothing


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__folds": 5}, "data.folds=5 needs refit: true"),
        ({"data__folds": 1, "refit": True}, "folds=1 holds out all labels at once"),
        ({"method": "ssmae", "refit": True}, "method=ssmae opens its gate by its accuracy on"),
    ],
)
def test_folds_that_make_no_sense(changes: dict[str, Any], message: str, folder: Path) -> None:
    tree = json.loads(changed_params().model_dump_json())
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        (tree[section] if section else tree)[name] = value
    assert message in refusal(folder, tree)


LISTED = {"data__labeled_list": "names.txt"}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"label_fraction": None, "num_labels": None}, ["nothing"]),
        ({"label_fraction": 0.1, "num_labels": 40}, ["label_fraction=0.1", "num_labels=40"]),
        (
            {"label_fraction": None, "num_labels": 40, **LISTED},
            ["num_labels=40", "data.labeled_list=names.txt"],
        ),
        (
            {"label_fraction": 0.1, "num_labels": None, **LISTED},
            ["label_fraction=0.1", "data.labeled_list=names.txt"],
        ),
    ],
)
def test_exactly_one_thing_says_which_images_are_labeled(
    changes: dict[str, object], named: list[str], folder: Path
) -> None:
    with pytest.raises(UserError) as caught:
        changed_params(**changes).cell()
    assert all(part in str(caught.value) for part in [*named, "set exactly one"])
    # and reading the file says so too, before any command starts to work
    tree = json.loads(changed_params(**changes).model_dump_json())
    assert "set exactly one" in refusal(folder, tree)


@pytest.mark.parametrize(
    "changes",
    [
        {"label_fraction": 0.1, "num_labels": None},
        {"label_fraction": None, "num_labels": 40},
        {"label_fraction": None, "num_labels": None, **LISTED},
    ],
)
def test_each_way_to_choose_the_labeled_images_can_be_read(
    changes: dict[str, object], folder: Path
) -> None:
    """Whichever the headline takes, the grid's label fractions take its place there."""
    params = Params.read(write(folder, json.loads(changed_params(**changes).model_dump_json())))
    assert params.cell().label_fraction == changes["label_fraction"]
    for cell in params.grid():
        assert cell.label_fraction is not None
        assert cell.num_labels is None
        assert cell.data.labeled_list is None


@pytest.mark.parametrize(
    "labels",
    [
        {"label_fraction": 0.3, "num_labels": None},
        {"label_fraction": None, "num_labels": 40},
        {"label_fraction": None, "num_labels": None, **LISTED},
    ],
)
def test_null_in_the_grid_means_the_labels_of_the_headline(
    labels: dict[str, object], folder: Path
) -> None:
    changes = {
        **{"ablation__method": ["semi_mae"], "ablation__mask_ratio": [0.75], "mask_ratio": 0.75},
        **{"ablation__label_fraction": [None, 0.2], "ablation__seed": [0, 1], "seed": 0},
    }
    tree = json.loads(changed_params(**labels, **changes).model_dump_json())
    params = Params.read(write(folder, tree))
    first, second, *by_fraction = params.grid()
    assert first == params.cell()
    assert second == params.cell(seed=1)
    assert [cell.label_fraction for cell in by_fraction] == [0.2, 0.2]


def test_a_cell_survives_its_file(tmp_path: Path) -> None:
    cell = changed_params().cell()
    cell.write(tmp_path / "config.json")
    assert Cell.read(tmp_path / "config.json") == cell
    assert (tmp_path / "config.json").read_text() == cell.model_dump_json(indent=2) + "\n"


@pytest.mark.parametrize("content", ["{}", "not json", '{"dataset": "digits", "extra": 1}'])
def test_a_cell_s_file_of_another_version_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(UserError, match="was written by another version"):
        Cell.read(path)
    with pytest.raises(UserError, match="is missing"):
        Cell.read(tmp_path / "none.json")


@pytest.mark.parametrize("method", METHODS)
def test_images_per_step(method: str) -> None:
    cell = changed_params(method=method, train__batch_size=5, train__mu=3).cell()
    unlabeled = 0 if method == "supervised" else 15
    assert cell.num_unlabeled == unlabeled
    assert cell.images_per_step == 5 + unlabeled


# --- variants

CHANGES = {"heavy": {"mim": {"lambda_mim": 10.0}}, "strong": {"data": {"cutout": 0.5}}}
SIMMIM = {
    "name": "simmim",
    "lambda_mim": 1.0,
    "weighting": "fixed",
    "gradient_ratio": 1.0,
    "weighting_every": 1,
    "weighting_momentum": 0.0,
    "target": "pixels",
    "loss": "l1",
    "masking": "random",
    "mask_unit": 1,
}


def with_variants(changes: dict[str, Any]) -> Params:
    return changed_params(ablation__variant=["plain", *changes], ablation__changes=changes)


def test_a_variant_is_the_same_cell_with_other_values() -> None:
    params = with_variants(CHANGES)
    plain, heavy = params.cell(), params.variant("heavy").cell()
    tree = plain.model_dump()
    tree["options"]["mim"]["branch"]["lambda_mim"] = 10.0
    assert heavy.model_dump() == tree
    assert heavy == Cell.model_validate(tree)
    assert params.variant("plain") is params
    with pytest.raises(UserError, match=r"has no hevy \(did you mean 'heavy'\?\)"):
        params.variant("hevy")


def test_a_section_of_another_name_replaces_the_whole() -> None:
    mim = with_variants({"simmim": {"mim": SIMMIM}}).variant("simmim").cell().mim
    assert mim is not None
    assert mim.branch.model_dump() == SIMMIM


def test_a_cell_that_a_variant_does_not_change_stays_plain() -> None:
    first = [points[0] for points in with_variants(CHANGES).grid().values()]
    of_supervised = {point.variant for point in first if point.method == "supervised"}
    assert of_supervised == {"plain", "strong"}  # it has no reconstruction to weigh
    assert {point.variant for point in first if point.method == "semi_mae"} == {"plain", *CHANGES}


def test_every_point_of_the_grid_has_a_folder_and_is_read_back_from_it() -> None:
    params = with_variants(CHANGES)
    points = [point for asked in params.grid().values() for point in asked]
    lists = (params.ablation.method, params.ablation.mask_ratio, params.ablation.label_fraction)
    assert len(points) == math.prod(map(len, (*lists, params.ablation.seed, ["plain", *CHANGES])))
    assert len({point.folder for point in points}) == len(points)
    assert [GridPoint.parse(point.folder) for point in points] == points


@pytest.mark.parametrize(
    ("folder", "note"),
    [
        ("semi_mae-0.5-None-0-images-plain", ""),
        ("semi_mae-1e-05-0.1-0-time-plain", " time"),
        ("fixmatch-0.5-1-0-images-heavy_10", " heavy_10"),
    ],
)
def test_the_unusual_of_a_folder_is_part_of_a_name(folder: str, note: str) -> None:
    point = GridPoint.parse(folder)
    assert point is not None
    assert point.note == note


@pytest.mark.parametrize(
    "folder", ["headline", "semi_mae-0.5-0.1-0-images", "semi_mae-0.5-0.1-0-hours-plain", ""]
)
def test_other_folders_are_no_points(folder: str) -> None:
    assert GridPoint.parse(folder) is None


@pytest.mark.parametrize(
    ("variant", "changes", "words"),
    [
        (["heavy"], CHANGES, "ablation.variant begins with heavy; it must begin with plain"),
        ([], {}, "ablation.variant: got []; List should have at least 1 item"),
        (["plain", "lon"], CHANGES, "ablation.changes lacks lon, which variant lists"),
        (["plain"], {"plain": {}}, "ablation.changes.plain is not allowed: plain changes nothing"),
        (["plain"], {"A b": {}}, "ablation.changes.A b: the name of a variant has up to 32 low"),
        (["plain"], {"a": {"mimm": {}}}, "ablation.changes.a.mimm: allowed sections: data, back"),
        (["plain"], {"a": {"seed": {}}}, "ablation.changes.a.seed: allowed sections: data, back"),
        (
            ["plain"],
            {"a": {"data": {"image_size": 8}}},
            "ablation.changes.a.data.image_size is not allowed: `prepare` reads it once, for all",
        ),
        (
            ["plain", "a"],
            {"a": {"mim": {"lambda_min": 1.0}}},
            "ablation.changes.a: mim.lambda_min: unknown key of mim.name: mae (did you",
        ),
        (["plain", "a"], {"a": {"mim": {"lambda_mim": -1}}}, "ablation.changes.a: mim.lambda_mim"),
        (["plain", "a"], {"a": {"mim": {"name": "simmin"}}}, "ablation.changes.a: mim.name: got"),
        (
            ["plain", "a"],
            {"a": {"optim": {"warmup_steps": 240}}},
            "ablation.changes.a: optim.warmup_steps=240 must be less than train.steps=240",
        ),
        (["plain"], {"time": {}}, "ablation.changes.time: the name of a variant has up to 32 low"),
        (
            ["plain"],
            {"a": {"lambda_mim": 10.0}},
            "ablation.changes.a.lambda_mim: allowed sections: data, backbone",
        ),
        (["plain"], {"a": {"mim": 1}}, "changes.a must have the form {SECTION: {FIELD: VALUE}}"),
        (["plain"], {"a": None}, "changes.a must have the form {SECTION: {FIELD: VALUE}}"),
        (
            ["plain"],
            {"a": {"data": {"val_fraction": 0.5}}},
            "data.val_fraction is not allowed: settings are compared on the same validation",
        ),
        (
            ["plain"],
            {"a": {"data": {"labeled_list": "a.txt"}}},
            "data.labeled_list is not allowed: use ablation.label_fraction",
        ),
        (
            ["plain", "a"],
            {"a": {"train": {"steps": 5}}},
            "ablation.changes.a.train.steps is not allowed: settings are compared at equal steps",
        ),
    ],
)
def test_a_variant_without_sense_is_refused(
    variant: list[str], changes: dict[str, Any], words: str, folder: Path
) -> None:
    tree = put(("ablation", "changes"), changes)
    tree["ablation"]["variant"] = variant
    assert words in refusal(folder, tree)


def test_a_variant_has_no_time_factor(folder: Path) -> None:
    tree = put(("ablation", "changes"), CHANGES)
    tree["ablation"] |= {"variant": ["plain", "heavy"], "budget": ["images", "time"]}
    tree["ablation"]["time_factor"] = SAME
    assert "ablation.budget time does not work with variants" in refusal(folder, tree)


# --- baselines

CNN = {"name": "cnn", "width": 4, "depth": 2, "weights": None}
SMALL_CNN = {"small_cnn": {"backbone": CNN, "train": {"steps": 40}}}


def with_baselines(**changes: object) -> Params:
    return changed_params(
        **{
            "ablation__changes": SMALL_CNN,
            "ablation__baseline__variant": ["small_cnn"],
            "ablation__mask_ratio": [0.5, 0.75],
            "ablation__label_fraction": [0.04, 0.1],
            "ablation__seed": [0, 1],
        }
        | changes
    )


def test_baselines_stand_beside_the_grid() -> None:
    cells = with_baselines().grid()
    plain = with_baselines(ablation__baseline__variant=[]).grid()
    assert list(cells)[: len(plain)] == list(plain)
    extra = {cell: points for cell, points in cells.items() if cell not in plain}
    points = [point for asked in extra.values() for point in asked]
    assert points == [
        GridPoint("supervised", 0.5, fraction, seed, "images", "small_cnn")
        for fraction in (0.04, 0.1)
        for seed in (0, 1)
    ]
    assert [GridPoint.parse(point.folder) for point in points] == points
    for cell in extra:
        assert cell.backbone.model_dump() == CNN
        assert cell.train.steps == 40  # a length of its own, unlike a variant


def test_baselines_have_one_budget() -> None:
    params = with_baselines(
        ablation__budget=["images", "time"],
        ablation__time_factor={"supervised": 2.0, "fixmatch": 1.5, "semi_mae": 1.0},
    )
    variants = [
        {point.variant for points in params.grid(budget).values() for point in points}
        for budget in ("images", "time")
    ]
    assert variants == [{"plain", "small_cnn"}, {"plain"}]


@pytest.mark.parametrize(
    ("baseline", "variant", "words"),
    [
        (["small_cn"], ["plain"], "ablation.changes lacks small_cn, which baseline.variant lists"),
        (["plain"], ["plain"], "baseline.variant and variant both have plain; remove one"),
        (["small_cnn"], ["plain", "small_cnn"], "and variant both have small_cnn; remove one"),
        ([], ["plain", "small_cnn"], "small_cnn.train.steps is not allowed: settings are compared"),
    ],
)
def test_a_baseline_without_sense_is_refused(
    baseline: list[str], variant: list[str], words: str, folder: Path
) -> None:
    tree = put(("ablation", "changes"), SMALL_CNN)
    tree["ablation"] |= {"variant": variant}
    tree["ablation"]["baseline"] |= {"variant": baseline}
    assert words in refusal(folder, tree)


def test_a_baseline_that_hides_patches_it_does_not_have_is_refused(folder: Path) -> None:
    tree = put(("ablation", "changes"), SMALL_CNN)
    tree["ablation"]["baseline"] = {"method": ["semi_mae"], "variant": ["small_cnn"]}
    words = "ablation.changes.small_cnn: backbone.name=cnn is a convolutional network"
    assert words in refusal(folder, tree)
