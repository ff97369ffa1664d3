"""Ways to learn from labelled and unlabelled images."""
