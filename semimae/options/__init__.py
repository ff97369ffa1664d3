"""All of params.yaml as frozen pydantic models, without torch. Nothing is built here."""
