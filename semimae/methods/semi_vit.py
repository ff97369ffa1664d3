"""Semi-ViT: pseudo labels from a moving average that starts from fine-tuned weights."""

from semimae.methods.pseudo import PseudoLabelMethod


class SemiViT(PseudoLabelMethod):
    """Semi-ViT (arXiv:2208.05688, sections 3.1 to 3.3).

    The run starts from masked pretraining and supervised fine-tuning (section ``start`` of
    params.yaml; 0 steps of either leave it out), the teacher is the moving average, and strong
    views are mixed by confidence. Student and teacher both start from the average that the
    fine-tuning ends with, and the teacher keeps ``train.ema_decay`` from the first step on: it has
    no warm-up, which would replace it by the student within some steps. Deviation: the views are
    this project's.
    """
