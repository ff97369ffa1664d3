"""Masked image modeling: branches that share the backbone and predict what was hidden from it."""
