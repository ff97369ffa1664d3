"""MLflow shows a run's parameters under the names that params.yaml has for them."""

import pytest
from support import changed_params

from pipeline.tracking.cells import parameters
from pipeline.workspace import flat
from semimae.options.method import METHODS

# What a method sets itself, whatever params.yaml says.
SETTLED = {
    ("mae", "mim.lambda_mim"),
    ("mae_finetune", "mim.lambda_mim"),
    ("semi_vit", "mim.lambda_mim"),
    ("semi_vit", "pseudo_label.mixup"),
    ("softmatch", "pseudo_label.alignment"),
    *(  # not read while the weight is fixed
        (method, f"mim.{key}")
        for method in ("mae", "mae_finetune", "semi_vit", "ssmae", "semi_mae")
        for key in ("weighting_every", "weighting_momentum")
    ),
    *((method, "pseudo_label.rule") for method in ("flexmatch", "freematch", "softmatch")),
}


@pytest.mark.parametrize("method", METHODS)
def test_names_and_values_are_those_of_params_yaml(method: str) -> None:
    params = changed_params(method=method, mim__lambda_mim=2.0, mask_ratio=0.5)
    asked, said = flat(params.model_dump()), parameters(params.cell())
    assert said.pop("weights_sha256") is None
    assert said.keys() <= asked.keys()
    assert {"dataset", "method", "seed", "train.steps", "data.cutout"} <= said.keys()
    assert ("mask_ratio" in said) == ("mim.name" in said)
    others = {name for name, value in said.items() if value != asked[name]}
    assert others == {name for owner, name in SETTLED if owner == method}


def test_an_option_that_one_method_shares_with_the_rhythm_has_its_section() -> None:
    said = parameters(changed_params(method="ssmae", train__eval_every=7).cell())
    assert (said["train.eval_every"], said["ssmae.memory"]) == (7, True)
    assert "train.eval_every" not in parameters(changed_params(method="semi_mae").cell())
