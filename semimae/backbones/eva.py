"""Vision Transformers with rotary positions; the only file that touches timm's Eva internals."""

from timm.layers import apply_keep_indices_nlc
from timm.models.eva import Eva
from torch import Tensor

from semimae.backbones.blocks import paths_of_blocks, run_block
from semimae.backbones.vit import ViT


class RotaryViT(ViT):
    """A backbone around timm's ``Eva``: EVA-02 (arXiv:2303.11331), DINOv3's ViT (arXiv:2508.10104).

    Queries and keys are rotated by their patch's position in every block, so that a patch which is
    kept must bring its own rotation along.
    """

    def __init__(self, eva: Eva) -> None:
        super().__init__(eva)

    def _run(self, tokens: Tensor, ids_keep: Tensor | None, paths: Tensor | None) -> Tensor:
        """Run the blocks: ``[B, prefix + K, D]``, before the final norm.

        Args:
            tokens: ``[B, K, D]``.
            ids_keep: ``[B, K]``, the patches that the tokens belong to; ``None``: all, in order.
            paths: ``[B, 2 * num_blocks]``, factors of the residual branches; ``None``: ones.
        """
        x = self._add_prefix(tokens)
        rotations = self._rotations(tokens, ids_keep)
        parts = paths_of_blocks(paths, self.num_blocks)
        for block, rotation, own in zip(self.blocks, rotations, parts, strict=True):
            x = run_block(block, x, own, recompute=self.recompute, rope=rotation)
        return x

    def _rotations(self, tokens: Tensor, ids_keep: Tensor | None) -> list[Tensor] | list[None]:
        """Return the rotation of each token, per block; it leaves out class and register tokens."""
        depth = len(self.vit.blocks)
        if self.vit.rope is None:
            return [None] * depth
        rotation = self.vit.rope.get_embed()  # [L, R]; if learned, [depth, heads, L, R]
        mixed = rotation.ndim == 4
        if ids_keep is not None:
            rotation = apply_keep_indices_nlc(tokens, rotation, ids_keep)  # a leading [B] is added
            rotation = rotation.transpose(0, 1) if mixed else rotation.unsqueeze(1)
        return list(rotation) if mixed else [rotation] * depth
