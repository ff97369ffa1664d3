"""Semi-ViT: pseudo labels from a moving average that starts from fine-tuned weights."""

from semimae.methods.pseudo import PseudoLabelMethod


class SemiViT(PseudoLabelMethod):
    """Semi-ViT (arXiv:2208.05688, sections 3.1 to 3.3).

    The run starts from masked pretraining and supervised fine-tuning (section ``start`` of
    params.yaml; 0 steps of either leave it out), the teacher is the moving average, and strong
    views are mixed by confidence. The moving average starts from the fine-tuned weights. Deviation:
    the views are this project's.
    """
