"""The registry: a new method is one file, one line here and one in ``methods.config``."""

from semimae.methods.base import Method
from semimae.methods.fixmatch import FixMatch
from semimae.methods.semi_mae import SemiMAE
from semimae.methods.supervised import Supervised

METHODS: dict[str, type[Method]] = {
    "supervised": Supervised,
    "fixmatch": FixMatch,
    "semi_mae": SemiMAE,
}
