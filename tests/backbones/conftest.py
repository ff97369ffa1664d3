import pytest
from small_models import build, mae, scramble, vit

from semimae.model import SemiModel


@pytest.fixture
def trained() -> SemiModel:
    """A model that stands for a trained one."""
    model = build(vit(pos_embed="learned"), mae(), seed=7)
    scramble(model)
    return model
