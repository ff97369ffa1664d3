"""All of params.yaml as frozen models: pydantic alone, no torch, and nothing is built here."""
