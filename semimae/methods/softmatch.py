"""SoftMatch: every pseudo label counts, the less the further its confidence is below the mean."""

from typing import ClassVar

from semimae.methods.config import MethodOptions
from semimae.methods.pseudo import PseudoLabelMethod


class SoftMatch(PseudoLabelMethod):
    """SoftMatch (arXiv:2301.10921, algorithm 1); the rule is ``rules.SoftRule``.

    The paper aligns predictions to the uniform distribution (section 3.3), so ``alignment: none``
    means ``uniform`` here. Deviation: the teacher may be the moving average of the weights.
    """

    rule_name: ClassVar[str | None] = "soft"

    def __init__(self, options: MethodOptions, num_classes: int, num_unlabeled: int) -> None:
        config = options.pseudo_label
        assert config is not None
        if config.alignment == "none":
            options = options._replace(
                pseudo_label=config.model_copy(update={"alignment": "uniform"})
            )
        super().__init__(options, num_classes, num_unlabeled)
