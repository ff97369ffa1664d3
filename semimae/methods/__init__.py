"""Ways to learn from labeled and unlabeled images."""
