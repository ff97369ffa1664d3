"""Weights, pickles, checkpoints, stage files of any content: nothing is run or half taken."""

import io
import json
import os
import pickle
import shutil
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzz_cases import CANARY, Fuzz
from hypothesis import strategies as st
from safetensors.torch import save as to_bytes
from support import changed_params
from torch import Tensor

from semimae.backbones.weights import load_weights
from semimae.data.split import Split
from semimae.data.store import Prepared
from semimae.engine.checkpoint import Checkpoints, TrainState, _checksum
from semimae.engine.optim import build_optimizer
from semimae.methods.registry import build_method
from semimae.model import model_of
from semimae.model_file import open_model, save_model
from semimae.options.cell import Cell
from semimae.types import UserError

pytestmark = pytest.mark.slow


class Malicious:
    """Writes the canary where it is unpickled."""

    def __init__(self, call: Callable[..., object], *arguments: object) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call, self.arguments


def refused(call: Callable[[], object]) -> bool:
    """Whether a call ends with the one line for users; any other exception is let through."""
    message = None
    try:
        call()
    except UserError as error:
        message = str(error)
    assert message is None or (len(message.splitlines()) == 1 and len(message) < 2000)
    return message is not None


@pytest.fixture(autouse=True)
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.rglob(CANARY))


@pytest.fixture(scope="module")
def cell() -> Cell:
    return changed_params(method="semi_mae").cell()


def damaged(content: bytes, way: str, place: int) -> bytes:
    """Cut, or change some bytes; those in front, which say what follows, more often."""
    if way == "cut":
        return content[: place % len(content)]
    if way == "longer":
        return content + bytes(place % 100)
    where = place % len(content) if way == "changed" else place % min(400, len(content))
    return content[:where] + bytes([content[where] ^ (1 + place % 255)]) + content[where + 1 :]


def header(content: dict[str, Any], data: bytes = bytes(64), length: int | None = None) -> bytes:
    text = json.dumps(content).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: str, shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


NAME = "backbone.vit.norm.weight"  # 16 values
HEADERS = [
    header({}, b"", 2**63),
    header({}, b"", 2**40),
    header({}, b"", 0),
    b"",
    b"\0" * 7,
    b"\xff" * 64,
    header({NAME: entry("F32", [16], 0, 64), "x": entry("F32", [16], 0, 64)}),  # overlapping
    header({NAME: entry("F32", [16], 0, 32)}),
    header({NAME: entry("F32", [16], 64, 0)}),
    header({NAME: entry("F32", [16], 0, 2**60)}),
    header({NAME: entry("F32", [2**62, 2**62], 0, 64)}),
    header({NAME: entry("F32", [-16], 0, 64)}),
    header({NAME: entry("X99", [16], 0, 64)}),
    header({NAME: entry("F32", [16], 0, 64), "__metadata__": {"a": "b"}}),
    header({NAME: entry("F64", [8], 0, 64)}),
    header({NAME: entry("I32", [16], 0, 64)}),
    header({NAME: entry("BOOL", [64], 0, 64)}),
    header({NAME: entry("F8_E4M3", [64], 0, 64)}),
    header({"": entry("F32", [16], 0, 64)}),
    header({"a\n\x1b[2J": entry("F32", [16], 0, 64)}),
    header({"x" * 5000: entry("F32", [16], 0, 64)}),
    b"\x02\0\0\0\0\0\0\0[]",
    header({NAME: []}),
    header({NAME: entry("F32", [16], 0, 64)}, b"\xff" * 64),  # NaN
]


def odd_tensors(state: dict[str, Tensor], name: str, way: str) -> dict[str, Any]:
    """One tensor of another shape, type, layout or value."""
    tensor = state[name]
    line = torch.atleast_1d(tensor)
    made: Any = {
        "missing": None,
        "transposed": tensor.reshape(tensor.shape[::-1]),
        "flat": tensor.flatten(),
        "longer": torch.cat([line, line]),
        "empty": line[:0],
        "no side": tensor.reshape(*tensor.shape, 1)[..., :0],
        "deeper": tensor[None],
        "last axis": torch.cat([line, line], dim=-1),
        "last but one": torch.cat([line, line], dim=-2) if line.ndim > 1 else line[:1],
        "half": tensor.half(),
        "double": tensor.double(),
        "bf16": tensor.bfloat16(),
        "float8": tensor.to(torch.float8_e4m3fn),
        "integer": tensor.long(),
        "boolean": tensor > 0,
        "complex": tensor.to(torch.complex64),
        "nan": tensor * float("nan"),
        "infinite": tensor / 0,
        "scalar": torch.zeros(()),
        "sparse": tensor.to_sparse(),
        "meta": tensor.to("meta"),
        "repeated": torch.zeros(1).expand(line.shape),
        "huge": torch.zeros(1).expand(1, 2**40, max(1, line.shape[-1])),
        "list": tensor.tolist(),
        "text": "weights",
    }[way]
    return {k: v for k, v in (state | {name: made}).items() if v is not None}


WAYS = [
    "missing",
    "transposed",
    "flat",
    "longer",
    "empty",
    "no side",
    "deeper",
    "last axis",
    "last but one",
    "half",
    "double",
    "bf16",
    "float8",
    "integer",
    "boolean",
    "complex",
    "nan",
    "infinite",
    "scalar",
    "sparse",
    "meta",
    "repeated",
    "huge",
    "list",
    "text",
]


def test_any_weights(fuzz: Fuzz, cell: Cell, digits: Prepared, tmp_path: Path) -> None:
    model = model_of(cell, digits)
    state = {k: v.clone() + 0.01 for k, v in model.state_dict().items()}
    assert state[NAME].shape == (16,)
    outcomes = []

    def check(case: tuple[str, str, str, str, int]) -> None:
        kind, suffix, name, way, place = case
        path = tmp_path / f"w{suffix}"
        path.unlink(missing_ok=True)
        if kind == "header":
            path.write_bytes(HEADERS[place % len(HEADERS)])
        elif kind == "tensor":
            odd = odd_tensors(state, name, way)
            if suffix == ".pth":
                torch.save({"model": odd} if place % 2 else odd, path)
            else:
                plain = {k: v for k, v in odd.items() if isinstance(v, Tensor) and not v.is_meta}
                plain = {
                    k: v
                    for k, v in plain.items()
                    if v.layout == torch.strided and v.numel() < 10**6
                }
                path.write_bytes(to_bytes({k: v.contiguous() for k, v in plain.items()}))
        else:
            file = io.BytesIO()
            torch.save(state, file)
            content = file.getvalue() if suffix == ".pth" else to_bytes(state)
            path.write_bytes(damaged(content, kind, place))
        before = {k: v.clone() for k, v in model.state_dict().items()}
        outcomes.append(refused(lambda: load_weights(model, path.name, root=tmp_path)))
        for key, value in model.state_dict().items():
            assert value.isfinite().all(), key
            assert not outcomes[-1] or torch.equal(value, before[key]), key

    fuzz(
        st.tuples(
            st.sampled_from(
                ["tensor"] * 5 + ["header", "cut", "changed", "front", "front", "longer"]
            ),
            st.sampled_from([".pth", ".safetensors"]),
            st.sampled_from(sorted(state)),
            st.sampled_from(WAYS),
            st.integers(0, 10**6),
        ),
        check,
    )
    assert any(outcomes)
    assert not all(outcomes)


def test_any_pickle(fuzz: Fuzz, cell: Cell, digits: Prepared, tmp_path: Path) -> None:
    """Objects that run code when they are unpickled, at any place of what a .pth file may hold."""
    model = model_of(cell, digits)
    calls: list[tuple[Any, ...]] = [
        (os.system, f"touch {CANARY}"),
        (eval, f"open('{CANARY}', 'w')"),
        (exec, f"open('{CANARY}', 'w')"),
        (open, CANARY, "w"),
        (os.mkdir, CANARY),
        (Path(CANARY).touch,),
        (__import__, "os"),
        (torch.load, "w.pth"),
        (getattr, "text", "upper"),
        (shutil.copy, "w.pth", CANARY),
    ]

    def check(case: tuple[int, str, str, int]) -> None:
        which, place, form, protocol = case
        bad = Malicious(*calls[which])
        state: dict[Any, Any] = {NAME: torch.zeros(16), "deep": {"er": []}}
        if place == "value":
            state["x"] = bad
        elif place == "key":
            state[(bad,)] = 1
        elif place == "inside":
            state["deep"]["er"].append(bad)
        else:
            state = bad  # type: ignore[assignment]
        path = tmp_path / "w.pth"
        if form == "plain":
            path.write_bytes(pickle.dumps(state, protocol))
        elif form == "zip":
            with zipfile.ZipFile(path, "w") as file:
                file.writestr("archive/data.pkl", pickle.dumps(state, protocol))
                file.writestr("archive/version", "3\n")
                file.writestr("archive/../../" + CANARY, "x")
        else:
            torch.save(state, path, _use_new_zipfile_serialization=form == "new")
        assert refused(lambda: load_weights(model, "w.pth", root=tmp_path))
        assert not (tmp_path / CANARY).exists()

    fuzz(
        st.tuples(
            st.integers(0, len(calls) - 1),
            st.sampled_from(["value", "key", "inside", "all"]),
            st.sampled_from(["plain", "zip", "new", "old"]),
            st.integers(0, 5),
        ),
        check,
    )


def fresh(cell: Cell, prepared: Prepared, split: Split) -> TrainState:
    model = model_of(cell, prepared)
    ema = model_of(cell, prepared)
    method = build_method(cell.options, prepared.info.num_classes, split.num_unlabeled)
    return TrainState(model, ema, method, build_optimizer(model, model.backbone, cell.optim))


def test_any_damage_to_a_checkpoint(
    fuzz: Fuzz, cell: Cell, digits: Prepared, digits_split: Split, tmp_path: Path
) -> None:
    """A damaged checkpoint is passed over with a warning and leaves the state as it was."""
    state = fresh(cell, digits, digits_split)
    for parameter in state.model.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    state.optimizer.step()
    state.step = 1
    folder = tmp_path / "good"
    Checkpoints(folder).save(state)
    good = {path.name: path.read_bytes() for path in folder.iterdir()}
    tensors = {k: v.detach().clone() for k, v in state.tensors().items()}
    target = fresh(cell, digits, digits_split)
    first = {k: v.detach().clone() for k, v in target.tensors().items()}
    passed_over = []

    def check(case: tuple[str, str, str, int]) -> None:
        kind, name, way, place = case
        target.load(first)
        target.optimizer.state.clear()
        target.step = 0
        broken = tmp_path / "broken"
        shutil.rmtree(broken, ignore_errors=True)
        broken.mkdir()
        for file, content in good.items():
            (broken / file).write_bytes(content)
        data = broken / "step-000000001.safetensors"
        if kind == "tensor":  # with a right checksum, as of another program
            odd = odd_tensors(tensors, name, way)
            plain = {k: v for k, v in odd.items() if isinstance(v, Tensor) and not v.is_meta}
            plain = {
                k: v for k, v in plain.items() if v.layout == torch.strided and v.numel() < 10**6
            }
            data.write_bytes(to_bytes({k: v.contiguous() for k, v in plain.items()}))
            rehash(data)
        elif kind == "record":
            record = [None, [], {}, {"step": "x"}, {"step": 1}, 3, "text"][place % 7]
            rehash(data, record)
        else:
            file = broken / sorted(good)[place % 2]
            file.write_bytes(damaged(file.read_bytes(), kind, place // 2))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = Checkpoints(broken).load(target)
        passed_over.append(not found)
        if not found:
            assert any("is passed over" in str(w.message) for w in caught)
            for key, value in target.tensors().items():
                assert torch.equal(value, first[key]), key
            assert target.step == 0
        else:
            assert (target.step, target.history) == (1, [])

    fuzz(
        st.tuples(
            st.sampled_from(["tensor"] * 4 + ["record", "cut", "changed", "front", "longer"]),
            st.sampled_from(sorted(tensors)),
            st.sampled_from(WAYS),
            st.integers(0, 10**6),
        ),
        check,
    )
    assert sum(passed_over) > len(passed_over) / 2


def rehash(data: Path, record: object = ...) -> None:
    """Make the JSON file beside a checkpoint's tensors fit them."""
    import hashlib

    path = data.with_suffix(".json")
    content = json.loads(path.read_text())
    if record is not ...:
        content["record"] = record
    digest = hashlib.sha256(data.read_bytes()).hexdigest()
    content["sha256"] = _checksum(digest, content["record"])
    path.write_text(json.dumps(content))


def test_any_damage_to_what_stages_leave(
    fuzz: Fuzz, cell: Cell, digits: Prepared, digits_split: Split, tmp_path: Path
) -> None:
    """Stage files, damaged: what reads them takes what is still sound, or refuses in one line."""
    source = tmp_path / "whole"
    shutil.copytree(next(p for p in tmp_path.parent.parent.rglob("digits*/prepared")), source)
    cell.write(source / "config.json")
    digits_split.write(source / "split.json")
    save_model(model_of(cell, digits), cell, digits.info, source / "model.safetensors")
    names = sorted(path.name for path in source.iterdir())
    outcomes = []

    def read(folder: Path) -> None:
        prepared = Prepared.read(folder)
        Split.read(folder / "split.json", prepared)
        Cell.read(folder / "config.json")
        open_model(folder / "model.safetensors", branch=True)

    def check(case: tuple[str, str, int]) -> None:
        name, way, place = case
        folder = tmp_path / "copy"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder)
        path = folder / name
        if way == "gone":
            path.unlink()
        elif way == "folder":
            path.unlink()
            path.mkdir()
        elif way == "other":
            path.write_bytes((source / names[place % len(names)]).read_bytes())
        else:
            path.write_bytes(damaged(path.read_bytes(), way, place))
        outcomes.append(refused(lambda: read(folder)))

    fuzz(
        st.tuples(
            st.sampled_from(names),
            st.sampled_from(
                ["cut", "changed", "front", "front", "longer", "gone", "folder", "other"]
            ),
            st.integers(0, 10**6),
        ),
        check,
    )
    assert any(outcomes)
