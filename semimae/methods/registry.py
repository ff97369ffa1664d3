"""The registry: a new method is one file, one line here and one in ``methods.config``.

``mae_finetune`` has no class of its own: it is two phases, see ``methods.config.METHOD_PHASES``.
"""

from semimae.methods.base import Method
from semimae.methods.fixmatch import FixMatch
from semimae.methods.flexmatch import FlexMatch
from semimae.methods.freematch import FreeMatch
from semimae.methods.mae import MaskedPretraining
from semimae.methods.mean_teacher import MeanTeacher
from semimae.methods.semi_mae import SemiMAE
from semimae.methods.semi_vit import SemiViT
from semimae.methods.softmatch import SoftMatch
from semimae.methods.ssmae import SSMAE
from semimae.methods.supervised import Supervised

METHODS: dict[str, type[Method]] = {
    "supervised": Supervised,
    "fixmatch": FixMatch,
    "mean_teacher": MeanTeacher,
    "flexmatch": FlexMatch,
    "freematch": FreeMatch,
    "softmatch": SoftMatch,
    "mae": MaskedPretraining,
    "semi_vit": SemiViT,
    "ssmae": SSMAE,
    "semi_mae": SemiMAE,
}
