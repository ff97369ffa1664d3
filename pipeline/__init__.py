"""The DVC stages and the command line: one file per command. Only ``tracking`` uses MLflow."""
