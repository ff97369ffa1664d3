"""What the documents say is there, is there."""

import itertools
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main
from ruamel.yaml import YAML
from support import REPO

from pipeline.__main__ import app
from pipeline.reference import DEFAULTS, TARGET, reference
from semimae.options.method import METHODS
from semimae.options.params import Params

PAGES = sorted([*REPO.glob("*.md"), *REPO.glob("docs/**/*.md")])
KEYS = set(re.findall(r"^\| `([\w.]+)`", (REPO / TARGET).read_text(), re.MULTILINE))
PARTS = {key.rsplit(".", cut)[0] for key in KEYS for cut in range(key.count(".") + 1)}
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(REPO)))


def code(page: Path) -> list[str]:
    """The blocks and spans of code of a page."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^ *```\w*\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [*blocks, *re.findall(r"`([^`]+)`", prose)]


def anchors(page: Path) -> set[str]:
    """The names that a Git host gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_reference_of_the_options_is_current() -> None:
    written = reference(YAML(typ="safe").load(REPO / DEFAULTS))
    assert (REPO / TARGET).read_text() == written, "run `python -m pipeline.reference`"


def test_the_reference_has_every_key() -> None:
    def leaves(tree: dict[str, Any], prefix: str = "") -> set[str]:
        found: set[str] = set()
        for name, value in tree.items():
            inside = isinstance(value, dict) and name != "time_factor"  # a map is one key
            found |= leaves(value, f"{prefix}{name}.") if inside else {f"{prefix}{name}"}
        return found

    assert leaves(Params.read(REPO / DEFAULTS).model_dump()) <= KEYS
    assert {"backbone.model", "backbone.window_size"} <= KEYS  # of the other member of a union


@every_page
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name} links to {link}"
        if page.is_relative_to(REPO / "docs"):
            inside = target.resolve().is_relative_to(REPO / "docs")
            assert inside, f"{page.name} links to {link}, which the site does not have"
        if anchor:
            assert anchor in anchors(target), f"{page.name} links to {link}"


@every_page
def test_every_key_that_is_mentioned_exists(page: Path) -> None:
    sections = {key.partition(".")[0] for key in KEYS if "." in key}
    for text in code(page):
        named = re.findall(r"-S '?([\w.]+)=", text)
        span = re.fullmatch(r"([a-z_]+\.[a-z_0-9.]+)(: .*)?", text)
        if span and span[1].partition(".")[0] in sections:
            named.append(span[1])
        for key in named:
            assert key in PARTS, f"{page.name}: {text!r} names {key}"


@every_page
def test_every_make_target_that_is_mentioned_exists(page: Path) -> None:
    makefile = (REPO / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for text in code(page):
        for target in re.findall(r"\bmake ([a-z-]+)", text):
            assert target in targets, f"{page.name}: make {target}"


@every_page
def test_every_command_that_is_mentioned_exists(page: Path) -> None:
    for text in code(page):
        for names in re.findall(r"python -m pipeline ([a-z][a-z-]*(?: [a-z]+)?)", text):
            name, _, inner = names.partition(" ")
            commands: dict[str, Any] = vars(typer.main.get_command(app))["commands"]
            assert name in commands, f"{page.name}: {names}"
            if name == "recipe":
                assert inner in commands[name].commands, f"{page.name}: {names}"


@every_page
def test_every_recipe_that_is_mentioned_exists(page: Path) -> None:
    for text in code(page):
        for name in re.findall(r"recipe (?:use|show) ([a-z]\w*)", text):
            assert (REPO / "recipes" / f"{name}.yaml").is_file(), f"{page.name}: {name}"


@every_page
def test_every_file_of_ours_that_is_mentioned_exists(page: Path) -> None:
    for text in code(page):
        path = re.fullmatch(r"(?:semimae|pipeline|tests|recipes|docs)/[\w./-]+\.\w+", text)
        if path and not re.search("NAME|entropy", text):
            assert (REPO / text).is_file(), f"{page.name}: {text}"


@every_page
def test_a_page_speaks_of_this_repository_alone(page: Path) -> None:
    assert "../shared" not in page.read_text(encoding="utf-8")


def test_every_method_is_explained() -> None:
    text = (REPO / "docs/method.md").read_text()
    for name in METHODS:
        assert f"| `{name}` |" in text, name


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    text = (REPO / "docs/adr/0002-dependencies.md").read_text()
    for needed in project["dependencies"]:
        name = re.split(r"[<>=]", needed)[0]
        assert f"| {name} |" in text, name
    for needed in itertools.chain(*project["optional-dependencies"].values()):
        assert re.split(r"[<>=\[]", needed)[0] in text, needed


def test_every_promise_names_the_tests_that_hold_it() -> None:
    text = (REPO / "docs/reliability.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    promises = [row for row in rows if not row.startswith(("| ---", "| Promise"))]
    assert promises
    for row in promises:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert named, row
        for path, test in named:
            assert f"def {test}(" in (REPO / path).read_text(), f"{path}::{test}"


def test_every_decision_is_in_their_list() -> None:
    listed = (REPO / "docs/adr/index.md").read_text()
    for path in sorted(REPO.glob("docs/adr/0*.md")):
        title = path.read_text().partition("\n")[0].removeprefix("# ")
        assert f"- [{title}]({path.name})" in listed, path.name


def test_the_site_has_every_page() -> None:
    listed = (REPO / "mkdocs.yml").read_text().partition("\nnav:")[2]
    for path in sorted(REPO.glob("docs/**/*.md")):
        name = path.relative_to(REPO / "docs").as_posix()
        assert name.startswith("adr/0") or f": {name}\n" in listed, f"{name} is in no menu"
