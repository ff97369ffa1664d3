"""How many cases are generated for each property; ``SEMIMAE_FUZZ=10`` makes ten times as many."""

import os
from collections.abc import Callable
from pathlib import Path

Command = Callable[..., str | None]  # its one line of refusal, or None if it did what was asked
Fuzz = Callable[..., None]  # takes a strategy and a check, see conftest.py
CANARY = "executed"  # the name of the file that hostile data would write if it were run

# By the name of the test, without "test_".
CASES = {
    "any_value_of_any_field": 500,
    "several_fields_at_once": 150,
    "any_yaml": 350,
    "any_bytes_as_params": 100,
    "any_manifest": 300,
    "any_tree_of_files": 100,
    "any_image": 350,
    "any_weights": 250,
    "any_pickle": 100,
    "any_damage_to_a_checkpoint": 150,
    "any_damage_to_what_stages_leave": 150,
    "any_extreme_run": 30,
}
LEAST = 2000


def listing(folder: Path) -> dict[str, bytes]:
    """Everything below a folder: names, and what the files hold; links are named, not followed."""
    found = {}
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(parent, name)
            plain = path.is_file() and not path.is_symlink()
            found[str(path.relative_to(folder))] = path.read_bytes() if plain else b""
    return found
