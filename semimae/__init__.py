"""An implementation of Semi-MAE: semi-supervised Vision Transformers with a parallel MIM branch.

Reading order: ``params.yaml``, ``semimae/methods/semi_mae.py``, ``semimae/engine/loop.py``.
"""

__version__ = "0.1.0"
__all__ = ["__version__"]
