"""params.yaml of any content: the command does its work, or says in one line why not."""

import copy
import math
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fuzz_cases import CANARY, CASES, LEAST, Command, Fuzz, listing
from hypothesis import strategies as st
from pydantic import BaseModel
from ruamel.yaml import YAML
from support import REPO, changed_params

from semimae.ingest.prepare import prepare
from semimae.options.params import Params
from semimae.options.phase import READ_BY_PHASE

pytestmark = pytest.mark.slow
TREE: dict[str, Any] = changed_params().model_dump(mode="json")
PATHS = [
    "../../../etc/passwd",
    "/etc/passwd",
    "~nobody-here/x",
    "~",
    ".",
    "",
    "a\0b",
    "\n",
    "x" * 300,
    "é" * 2000,
    "\ud800",
    "timm:default",
    "timm:",
    "w.pth",
    "http://x/y",
    "params.yaml",
    "-",
    "\x1b[2J",
]
NUMBERS = [
    0,
    1,
    -1,
    2,
    3,
    64,
    4096,
    4097,
    2**20,
    2**31 - 1,
    2**31,
    2**63,
    2**64,
    10**40,
    -(10**40),
    0.0,
    -0.0,
    0.5,
    1.0,
    1.5,
    5e-324,
    1e-300,
    1e-9,
    1e9,
    1e300,
    math.inf,
    -math.inf,
    math.nan,
]


def fields(model: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every field of the tree of options, of all members of a union, with its type."""
    for name, field in model.model_fields.items():
        inner = [m for m in members(field.annotation) if issubclass(m, BaseModel)]
        yield (*prefix, name), field.annotation
        for option in inner:
            yield from fields(option, (*prefix, name))


def members(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type) and typing.get_origin(annotation) is None:
        yield annotation
    for part in typing.get_args(annotation):
        yield from members(part)


FIELDS = dict(fields(Params))
FIELDS |= {  # maps, which are checked as the sections that they change
    ("start", phase, section, name): FIELDS[section, name]
    for phase, sections in READ_BY_PHASE.items()
    for section, names in sections.items()
    for name in sorted(names)
}
scalars = (
    st.none()
    | st.booleans()
    | st.sampled_from(NUMBERS)
    | st.integers()
    | st.floats()
    | st.text(max_size=30)
    | st.sampled_from(PATHS)
)
values = (
    scalars
    | st.recursive(
        scalars,
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
        ),
        max_leaves=12,
    )
    | st.builds(lambda n, x: [x] * n, st.sampled_from([50, 3000]), scalars)
)


def likely(annotation: Any) -> st.SearchStrategy[Any]:
    """Values near those that the field takes, so that many get past its own check."""
    words = [v for v in typing.get_args(annotation) if isinstance(v, str)]
    kinds = set(members(annotation))
    options: list[st.SearchStrategy[Any]] = [st.sampled_from(words)] if words else []
    if int in kinds or float in kinds:
        options += [st.integers(0, 70), st.sampled_from(NUMBERS), st.floats(0, 1)]
    if str in kinds:
        options.append(st.sampled_from(PATHS))
    return st.one_of(options) if options else values


def put(tree: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    for key in path[:-1]:
        inner = tree.get(key)
        if isinstance(inner, list) and inner and isinstance(inner[0], dict):
            inner = inner[0]  # of teachers that are listed, the first
        tree = inner if isinstance(inner, dict) else tree.setdefault(key, {})
    tree[path[-1]] = value


@pytest.fixture
def split(command: Command, tmp_path: Path) -> Callable[[dict[str, Any] | str | bytes], str | None]:
    """Run ``split`` with a params.yaml; what it says or leaves behind is checked."""
    prepare("digits", changed_params().data, tmp_path, tmp_path / "prepared")
    dump = YAML(typ="safe", pure=True)
    dump.default_flow_style = False
    before = listing(tmp_path)

    def run(content: dict[str, Any] | str | bytes) -> str | None:
        path = tmp_path / "params.yaml"
        if isinstance(content, dict):
            dump.dump(content, path)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        message = command("split", "runs/x")
        left = listing(tmp_path)
        left.pop("params.yaml")
        made = {name for name in left if name not in before}
        assert CANARY not in left
        assert {k: v for k, v in left.items() if k in before} == before
        if message is None:
            assert made == {"runs", "runs/x", "runs/x/config.json", "runs/x/split.json"}
            for name in ("config.json", "split.json"):
                (tmp_path / "runs/x" / name).unlink()
            (tmp_path / "runs/x").rmdir()
            (tmp_path / "runs").rmdir()
        else:
            assert not made, message
        return message

    return run


def test_the_set_has_the_promised_size() -> None:
    assert sum(CASES.values()) >= LEAST


def test_any_value_of_any_field(split: Callable[..., str | None], fuzz: Fuzz) -> None:
    assert len(FIELDS) > 100
    for path, annotation in FIELDS.items():

        def check(value: object, path: tuple[str, ...] = path) -> None:
            tree = copy.deepcopy(TREE)
            put(tree, path, value)
            message = split(tree)
            assert message is None or any(key in message for key in (*path, *TREE)), message

        fuzz(values | likely(annotation), check, parts=len(FIELDS))


def test_several_fields_at_once(split: Callable[..., str | None], fuzz: Fuzz) -> None:
    """Each value is near what its field takes; together they may not fit."""
    taken = 0

    def check(case: list[tuple[tuple[str, ...], object]]) -> None:
        nonlocal taken
        tree = copy.deepcopy(TREE)
        for path, value in case:
            put(tree, path, value)
        taken += split(tree) is None

    small = [
        ("data", "image_size"),
        ("data", "crop_padding"),
        ("data", "channels"),
        ("mask_ratio",),
        ("backbone", "patch_size"),
        ("backbone", "embed_dim"),
        ("backbone", "num_heads"),
        ("mim", "mask_unit"),
        ("mim", "decoder_dim"),
        ("mim", "decoder_heads"),
        ("num_labels",),
        ("optim", "warmup_steps"),
        ("train", "steps"),
        ("optim", "lr"),
        ("optim", "min_lr"),
        ("start", "mae_steps"),
        ("data", "val_fraction"),
        ("train", "mu"),
        ("train", "batch_size"),
    ]
    one = st.sampled_from(small).flatmap(
        lambda path: st.tuples(st.just(path), st.sampled_from([1, 2, 4, 8, 16, 30, 0.1, 0.5, 0.9]))
    )
    fuzz(st.lists(one, min_size=2, max_size=3), check)
    assert taken


GOOD = (REPO / "params.yaml").read_text()
TRICKS = [
    "!!python/object/apply:os.system ['touch executed']",
    "!!python/name:os.system",
    "!!python/none x",
    "!!binary aGk=",
    "!!binary ???",
    "!!int x",
    "!!int ''",
    "!!int 0b2",
    "!!float x",
    "!!float ''",
    "!!bool x",
    "!!bool ''",
    "!!null x",
    "!!timestamp x",
    "!!timestamp ''",
    "!!set {a, b}",
    "!!omap [a: 1]",
    "!!omap x",
    "!!pairs [a: 1, a: 2]",
    "!!map x",
    "!!seq x",
    "!!str [1]",
    "!x y",
    "2020-13-45",
    "2020-01-01",
    "2020-01-01 25:00:00",
    "0777",
    "0o777",
    "0x_",
    "0b101",
    "1_000",
    "1:30",
    "yes",
    "~",
    "*nothing",
    "&a 1",
    "&a [*a]",
    "&a {b: *a}",
    "<<: 1",
    "{<<: [1]}",
    "? [1]\n: 2",
    "? {a: 1}\n: 2",
    "'",
    '"',
    "[",
    "]",
    "{",
    "}",
    "[1, 2",
    "|\n  x",
    ">\n  x",
    "%YAML 9.9",
    "@x",
    "`x",
    "\t1",
    "1 # x",
    "- 1",
    "--- 1",
    "... 1",
    "\u2028",
    "\u0085",
    "\\",
    '"\\ud800"',
    '"\\0"',
    '"\\x1b[2J"',
    "9" * 5000,
    "1e99999",
    ".inf",
    "-.INF",
    ".nan",
    "[" * 300,
    "[" * 5000,
    "{a: " * 300,
    "x" * 10000,
    "{? : }",
    "[]",
    "{}",
    "[[[]]]",
    "[null]",
    "null",
    "{1: 2}",
    "{null: 1}",
    "{.nan: 1}",
]
BOMB = "bomb:\n  - &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"  - &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(12)
)


def test_any_yaml(split: Callable[..., str | None], fuzz: Fuzz) -> None:
    """Tags, anchors, aliases, merges, odd scalars at any place of the file."""
    lines = GOOD.splitlines()
    places = [i for i, line in enumerate(lines) if ":" in line and not line.startswith("#")]

    def check(case: tuple[int, str, str]) -> None:
        place, trick, way = case
        changed = list(lines)
        if way == "value":
            changed[place] = changed[place].partition(":")[0] + ": " + trick
        elif way == "line":
            changed.insert(place, trick)
        elif way == "key":
            changed[place] = changed[place].replace(changed[place].strip().partition(":")[0], trick)
        elif way == "twice":
            changed.insert(place, changed[place])
        elif way == "bomb":
            changed[place] = changed[place].partition(":")[0] + ": *m"
            changed.insert(0, BOMB.rstrip("\n"))
        else:
            changed[place] = changed[place].replace("  ", "\t")
        split("\n".join(changed) + "\n")

    ways = ["value"] * 5 + ["line", "key", "twice", "bomb", "tabs"]
    fuzz(st.tuples(st.sampled_from(places), st.sampled_from(TRICKS), st.sampled_from(ways)), check)


def test_any_bytes_as_params(split: Callable[..., str | None], fuzz: Fuzz) -> None:
    """Other encodings, and the file with some of its bytes changed."""
    good = GOOD.encode()

    def check(case: tuple[str, int, bytes]) -> None:
        way, place, new = case
        if way == "bytes":
            split(good[: place % len(good)] + new + good[place % len(good) + len(new) :])
        elif way == "cut":
            split(good[: place % len(good)])
        elif way == "only":
            split(new)
        elif way == "long":
            split(good + b"# " + b"x" * 2**18)
        else:
            split(GOOD.replace("semi-mae", "s\u00e9mi").encode(way))

    ways = ["bytes"] * 5 + ["cut"] * 3
    ways += ["only", "long", "utf-8-sig", "utf-16", "utf-16-le", "latin-1", "utf-32"]
    fuzz(st.tuples(st.sampled_from(ways), st.integers(0, 10**6), st.binary(max_size=8)), check)
