"""The forms in which images go out to be labeled and come back: csv, Label Studio, a page."""
