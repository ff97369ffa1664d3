"""FreeMatch: thresholds from running confidence, and a fairness term."""

from typing import ClassVar

from semimae.methods.pseudo import PseudoLabelMethod


class FreeMatch(PseudoLabelMethod):
    """FreeMatch (arXiv:2205.07246, algorithm 1); the rule is ``rules.FreeRule``.

    Deviation: as for FixMatch, the teacher may be the moving average of the weights.
    """

    rule_name: ClassVar[str | None] = "free"
