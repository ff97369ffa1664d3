"""Evaluation of trained models. Training does not depend on it: an edit here retrains nothing."""
