"""From files to a prepared dataset and its split. Only `prepare` and `split` need this."""
