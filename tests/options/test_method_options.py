"""A cell holds the keys that its method reads, and no others."""

from pkgutil import iter_modules, resolve_name
from typing import Any

import pytest
from support import changed_params

import semimae.methods
from semimae.methods.base import Method
from semimae.methods.pseudo import PseudoLabelMethod
from semimae.methods.rules import Rule
from semimae.options.grid import FREE
from semimae.options.method import METHODS
from semimae.options.params import Params

RECONSTRUCT = {"mae", "mae_finetune", "semi_vit", "ssmae", "semi_mae"}
WITH_RULE = {"fixmatch", "flexmatch", "freematch", "softmatch", "semi_vit", "semi_mae"}
LABELED = METHODS.keys() - {"mae"}
WITH_THRESHOLD = {"fixmatch", "flexmatch", "semi_vit", "semi_mae", "ssmae"}

# Another value of a key, and the methods that read the key, as docs/method.md has it.
READERS: dict[str, tuple[object, set[str]]] = {
    "mask_ratio": (0.5, RECONSTRUCT),
    "mim__lambda_mim": (30.0, {"ssmae", "semi_mae"}),
    "mim__weighting": ("gradient", {"ssmae", "semi_mae"}),
    "mim__gradient_ratio": (3.0, set()),  # these are read where gradients weigh: see below
    "mim__weighting_every": (3, set()),
    "mim__weighting_momentum": (0.3, set()),
    "mim__target": ("pixels", RECONSTRUCT),
    "mim__loss": ("l1", RECONSTRUCT),
    "mim__masking": ("block", RECONSTRUCT),
    "mim__mask_unit": (2, RECONSTRUCT),
    "mim__decoder_dim": (16, RECONSTRUCT),
    "mim__decoder_depth": (3, RECONSTRUCT),
    "mim__decoder_heads": (1, RECONSTRUCT),
    "pseudo_label__threshold": (0.321, WITH_THRESHOLD),
    "pseudo_label__threshold_start": (0.321, WITH_THRESHOLD),
    "pseudo_label__threshold_ramp": (0.5, WITH_THRESHOLD),
    "pseudo_label__rule": ("flex", {"semi_vit", "semi_mae"}),
    "pseudo_label__alignment": ("labeled", WITH_RULE),
    "pseudo_label__momentum": (0.5, WITH_RULE),
    "pseudo_label__mixup": (True, WITH_RULE - {"semi_vit"}),
    "pseudo_label__teacher": ("student", WITH_RULE - {"semi_vit"}),
    "pseudo_label__skip_rejected": ("never", WITH_RULE),
    "pseudo_label__lambda_u": (3.0, WITH_RULE | {"ssmae", "self_training"}),
    "pseudo_label__lambda_ramp": (0.5, WITH_RULE | {"ssmae", "mean_teacher", "self_training"}),
    "pseudo_label__lambda_mse": (3.0, {"mean_teacher"}),
    "pseudo_label__lambda_fair": (3.0, {"freematch"}),
    "labeled__view": ("strong", LABELED),
    "labeled__view_probability": (0.5, LABELED),
    "labeled__mixup": (0.8, LABELED),
    "labeled__cutmix": (1.0, LABELED),
    "labeled__mix_probability": (0.9, LABELED),
    "labeled__switch_probability": (0.9, LABELED),
    "labeled__smoothing": (0.1, LABELED),
    "ssmae__gate_accuracy": (0.456, {"ssmae"}),
    "ssmae__gate_start": (0.456, {"ssmae"}),
    "ssmae__memory": (False, {"ssmae"}),
    "start__mae_steps": (77, {"mae_finetune", "semi_vit"}),
    "start__mae": ({"optim": {"betas": [0.9, 0.95]}}, {"mae_finetune", "semi_vit"}),
    "start__supervised_steps": (77, {"semi_vit"}),
    "start__supervised": ({"labeled": {"smoothing": 0.1}}, {"semi_vit"}),
    "self_training__teachers": ([{}, {"seed": 5}], {"self_training"}),
    "self_training__teacher_steps": (77, {"self_training"}),
    "self_training__ensemble": ("probabilities", {"self_training"}),
    "self_training__threshold": (0.5, {"self_training"}),
}
# Another value of each key that decides no weight.
DECIDE_NOTHING: dict[str, object] = {
    "data.root": "elsewhere",
    "data.manifest": "other.csv",
    "data.on_bad_image": "skip",
    "data.workers": 3,
    "data.decode": "threads",
    "train.eval_every": 5,
    "train.log_every": 5,
    "train.save_every": 5,
    "train.gradient_every": 5,
    "train.max_bad_steps": 5,
}
LARGE: dict[str, object] = {  # enough patches for blocks
    "data__image_size": 24,
    "backbone__patch_size": 2,
}


def config(method: str, **changes: object) -> str:
    """The content of config.json."""
    return changed_params(method=method, **LARGE, **changes).cell().model_dump_json(indent=2)


def test_every_key_of_the_methods_is_tested_here() -> None:
    tree = changed_params().model_dump()
    sections = ("labeled", "mim", "pseudo_label", "ssmae", "start", "self_training")
    keys = {f"{section}__{key}" for section in sections for key in tree[section]}
    assert READERS.keys() == keys - {"mim__name"} | {"mask_ratio"}


@pytest.mark.parametrize("key", READERS)
def test_a_key_changes_the_cells_of_the_methods_that_read_it(key: str) -> None:
    value, readers = READERS[key]
    changed = {name for name in METHODS if config(name) != config(name, **{key: value})}
    assert changed == readers


@pytest.mark.parametrize("key", ["gradient_ratio", "weighting_every", "weighting_momentum"])
def test_keys_of_the_weight_that_follows_gradients(key: str) -> None:
    balanced = {"mim__weighting": "gradient"}
    value = {f"mim__{key}": READERS[f"mim__{key}"][0]}
    changed = {n for n in METHODS if config(n, **balanced) != config(n, **balanced, **value)}
    assert changed == {"ssmae", "semi_mae"}


@pytest.mark.parametrize(
    ("rule", "read"),
    [
        ("fixed", {"threshold", "threshold_start", "threshold_ramp"}),
        ("flex", {"threshold", "threshold_start", "threshold_ramp"}),
        ("free", {"lambda_fair"}),
        ("soft", set()),
    ],
)
@pytest.mark.parametrize("method", ["semi_mae", "semi_vit"])
def test_the_rule_says_which_keys_are_read(method: str, rule: str, read: set[str]) -> None:
    base = config(method, pseudo_label__rule=rule)
    keys = ("threshold", "threshold_start", "threshold_ramp", "lambda_fair", "lambda_mse")
    changed = {
        key
        for key in keys
        if config(method, **{"pseudo_label__rule": rule, f"pseudo_label__{key}": 0.123}) != base
    }
    assert changed == read


def test_the_kind_of_branch_changes_the_cells_that_have_one() -> None:
    def read(method: str, mim: dict[str, Any]) -> str:
        tree = changed_params(method=method, **LARGE).model_dump()
        return Params.model_validate(tree | {"mim": mim}).cell().model_dump_json()

    mae = changed_params().mim.model_dump()
    simmim = {k: v for k, v in mae.items() if not k.startswith("decoder")} | {"name": "simmim"}
    assert {name for name in METHODS if read(name, mae) != read(name, simmim)} == RECONSTRUCT


@pytest.mark.parametrize("key", sorted(FREE))
def test_a_key_that_decides_no_weight_changes_no_cell(key: str) -> None:
    """SSMAE's gate opens at an evaluation, so there the rhythm of those decides weights."""
    change = {key.replace(".", "__"): DECIDE_NOTHING[key]}
    changed = {name for name in METHODS if config(name) != config(name, **change)}
    assert changed == ({"ssmae"} if key == "train.eval_every" else set())


def test_no_other_key_of_these_sections_is_free() -> None:
    assert DECIDE_NOTHING.keys() == FREE


@pytest.mark.parametrize("name", METHODS)
def test_the_code_that_options_name_is_there(name: str) -> None:
    for rule in ("fixed", "flex", "free", "soft"):
        options = changed_params(method=name, pseudo_label__rule=rule).cell().options
        method, *others = map(resolve_name, options.code())
        assert issubclass(method, Method)
        rules = [other for other in others if not issubclass(other, Method)]  # than of teachers
        assert (len(others) > len(rules)) == (name == "self_training")
        assert all(issubclass(rule, Rule) for rule in rules)
        assert len(rules) == issubclass(method, PseudoLabelMethod)
        assert all(made.__module__.startswith("semimae.methods.") for made in (method, *rules))


def test_every_method_and_every_rule_is_named_by_options() -> None:
    for module in iter_modules(semimae.methods.__path__):
        __import__(f"semimae.methods.{module.name}")
    named = {
        resolve_name(code)
        for name in METHODS
        for rule in ("fixed", "flex", "free", "soft")
        for code in changed_params(method=name, pseudo_label__rule=rule).cell().options.code()
    }
    found = {*_below(Method), *_below(Rule)}
    there = {cls for cls in found if cls.__module__.startswith("semimae.methods.")}
    assert there - {PseudoLabelMethod} == named


def _below(cls: type) -> set[type]:
    return {cls for child in cls.__subclasses__() for cls in ({child} | _below(child))}


def test_a_method_of_phases_ends_with_the_steps_of_train() -> None:
    for name in METHODS:
        options = changed_params(method=name).cell().options
        *starts, last = options.phases()
        assert last.steps is None
        assert not last.own
        assert bool(starts) == (name in {"mae_finetune", "semi_vit"})
        assert all(type(p.options) in METHODS.values() and p.steps for p in starts)
