"""What `prepare` and `split` alone need: from files to a prepared dataset and its split."""
