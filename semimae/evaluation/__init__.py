"""Scoring of trained models. Not a dependency of training: an edit here retrains nothing."""
