import os
from pathlib import Path

import pytest

from semimae.data.files import replaced_folder, write_csv, write_text


def test_text_and_csv_are_written_with_bare_line_feeds(tmp_path: Path) -> None:
    write_text(tmp_path / "new/folder/a.txt", "é\n")
    assert (tmp_path / "new/folder/a.txt").read_bytes() == b"\xc3\xa9\n"
    write_csv(tmp_path / "a.csv", ["x", "y"], [("1", "a,b"), ("2", 'say "c"')])
    assert (tmp_path / "a.csv").read_bytes() == b'x,y\n1,"a,b"\n2,"say ""c"""\n'
    assert sorted(os.listdir(tmp_path)) == ["a.csv", "new"]


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch
) -> None:
    write_text(tmp_path / "a.txt", "old")

    def fail(*args: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="Input"):
        write_text(tmp_path / "a.txt", "new")
    assert os.listdir(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in ("first", "second"):
        with replaced_folder(out) as folder:
            (folder / name).touch()
            assert not (out / name).exists()
        assert os.listdir(out) == [name]
    with pytest.raises(KeyboardInterrupt), replaced_folder(out) as folder:  # noqa: PT012
        (folder / "third").touch()
        raise KeyboardInterrupt
    assert os.listdir(out) == ["second"]
    assert os.listdir(tmp_path) == ["out"]
