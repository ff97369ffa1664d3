"""FixMatch: one fixed threshold."""

from semimae.methods.pseudo import PseudoLabelMethod


class FixMatch(PseudoLabelMethod):
    """FixMatch (arXiv:2001.07685, algorithm 1), whose rule is ``rules.FixedRule``.

    Deviation: the pseudo labels may come from the moving average of the weights
    (``pseudo_label.teacher: ema``, as in arXiv:2208.05688); the paper's own choice is ``student``.
    """
