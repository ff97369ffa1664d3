"""The DVC stages and the command line. One file is one stage; only ``tracking`` knows MLflow."""
