"""What a terminal of 80 columns shows of every command's help."""

import re
import shlex
from collections.abc import Iterator

import click
import pytest
import typer.main
from typer.testing import CliRunner

from pipeline.__main__ import app

ROOT = typer.main.get_command(app)


def commands(group: click.Command, *path: str) -> Iterator[tuple[str, ...]]:
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, *path, name)


def find(path: tuple[str, ...]) -> click.Command:
    command = ROOT
    for name in path:
        command = vars(command)["commands"][name]
    return command


def screen(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")  # Typer reads it when it is imported
    shown = CliRunner().invoke(app, [*path, "--help"])
    assert shown.exit_code == 0, shown.output
    return shown.output.splitlines()


every_command = pytest.mark.parametrize(
    "path", list(commands(ROOT)), ids=lambda p: "-".join(p) or "root"
)


@every_command
def test_help_fits_a_terminal(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    lines = screen(path, monkeypatch)
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 50


@every_command
def test_help_has_an_example_that_the_command_takes(path: tuple[str, ...]) -> None:
    if not path:
        return  # it says where to begin
    command = find(path)
    assert command.help
    example = re.search(r"^ *Example: (.+)$", command.help, re.MULTILINE)
    assert example, path
    words = shlex.split(example[1].rpartition("&& ")[2])
    assert words[:3] == ["python", "-m", "pipeline"], example[1]
    depth = len(path)
    assert tuple(words[3 : 3 + depth]) == path
    rest = words[3 + depth :]
    while rest and rest[0] in getattr(command, "commands", {}):  # a group's example is a command's
        command, rest = vars(command)["commands"][rest[0]], rest[1:]
    given, _, _ = command.make_parser(click.Context(command)).parse_args(list(rest))
    missing = [p.name for p in command.params if p.required and given.get(p.name) is None]
    assert not missing, f"{example[1]} lacks {missing}"


@every_command
def test_every_option_is_explained(path: tuple[str, ...]) -> None:
    for parameter in find(path).params:
        assert getattr(parameter, "help", None), f"{path} {parameter.name}"
