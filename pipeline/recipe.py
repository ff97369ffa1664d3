"""``recipe``: ready-made params files."""

import itertools
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from pipeline.overlay import complete, read
from pipeline.workspace import dvc_root
from semimae.files import write_text
from semimae.options.explain import near
from semimae.options.params import Params
from semimae.types import UserError

app = typer.Typer(
    help="""List, show and use ready-made params files.

    Example: python -m pipeline recipe use cifar10
    """,
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(help="A name from `recipe list`.")]


@dataclass(frozen=True)
class Recipe:
    """A file of settings. Its header gives the source of the values and the score they led to."""

    path: Path
    text: str

    @property
    def header(self) -> list[str]:
        """The comment lines at the top, without their ``# ``."""
        lines = itertools.takewhile(lambda line: line.startswith("#"), self.text.splitlines())
        return [line.removeprefix("#").removeprefix(" ") for line in lines]

    @property
    def description(self) -> str:
        """The header's first line."""
        return self.header[0] if self.header else ""

    @property
    def is_measured(self) -> bool:
        """Whether the header states a score."""
        scores = [line for line in self.header if line.startswith("Score:")]
        return bool(scores) and "unrun" not in scores[0]


@app.command("list")
def list_recipes() -> None:
    """List all recipes, and which of them have a measured score.

    Example: python -m pipeline recipe list
    """
    recipes = _recipes(dvc_root())
    width = max(map(len, recipes))
    for name, recipe in recipes.items():
        state = "measured" if recipe.is_measured else "unrun"
        typer.echo(f"{name:{width}}  {state:8}  {recipe.description}")


@app.command()
def show(name: Name) -> None:
    """Print the complete params file of a recipe.

    Example: python -m pipeline recipe show cifar10
    """
    typer.echo(complete(find(dvc_root(), name).path), nl=False)


@app.command()
def use(
    name: Name,
    force: Annotated[
        bool,
        typer.Option("--force", help="Overwrite params.yaml even if it has uncommitted changes."),
    ] = False,
) -> None:
    """Check a recipe and write it to params.yaml.

    Example: python -m pipeline recipe use cifar10
    """
    root = dvc_root()
    path = find(root, name).path
    text = complete(path)
    Params.parse(text, path)
    target = root / "params.yaml"
    if not force:
        refuse_to_lose(target)
    write_text(target, text)
    typer.echo(f"{target} now holds recipe {name}; run it with `dvc repro`.")


def _recipes(root: Path) -> dict[str, Recipe]:
    """Return all recipes by name.

    Raises:
        UserError: If there are none.
    """
    paths = sorted((root / "recipes").glob("*.yaml"))
    if not paths:
        raise UserError(f"there are no recipes in {root / 'recipes'}; restore that folder.")
    return {path.stem: Recipe(path, path.read_text(encoding="utf-8")) for path in paths}


def find(root: Path, name: str) -> Recipe:
    """Return a recipe by its name.

    Raises:
        UserError: If there is no recipe of that name.
    """
    recipes = _recipes(root)
    if name not in recipes:
        raise UserError(f"there is no recipe {name!r}{near(name, recipes)}; see `recipe list`.")
    return recipes[name]


def at_equal_steps(path: Path) -> Params | None:
    """Return the params of a file or recipe without what `time-factors` writes.

    Return None if the params are not valid.
    """
    try:
        params = read(path)
    except UserError:
        return None
    ablation = params.ablation.model_copy(update={"budget": ["images"], "time_factor": {}})
    return params.model_copy(update={"ablation": ablation})


def refuse_to_lose(path: Path) -> None:
    """Refuse to overwrite a params file that could not be restored.

    Raises:
        UserError: If it holds uncommitted work.
    """
    if _holds_own_work(path):
        raise UserError(f"{path} has uncommitted changes; commit them or add --force.")


def _holds_own_work(path: Path) -> bool:
    """Return whether a params file matches neither git nor any recipe.

    Time factors that were measured for a recipe do not count: its study keeps them.
    """
    if not path.is_file():
        return False
    status = subprocess.run(
        ["git", "status", "--porcelain", "--", path.name],
        cwd=path.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    if status.returncode == 0 and not status.stdout:  # without git nothing can be restored
        return False
    own = at_equal_steps(path)
    recipes = _recipes(path.parent).values()
    return own is None or all(own != at_equal_steps(recipe.path) for recipe in recipes)
