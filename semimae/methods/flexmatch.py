"""FlexMatch: thresholds by class that follow learning."""

from typing import ClassVar

from semimae.methods.pseudo import PseudoLabelMethod


class FlexMatch(PseudoLabelMethod):
    """FlexMatch (arXiv:2110.08263, algorithm 1); the rule is ``rules.FlexRule``.

    Deviation: as for FixMatch, the teacher may be the moving average of the weights.
    """

    rule_name: ClassVar[str | None] = "flex"
