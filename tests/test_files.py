import os
import threading
from pathlib import Path

import pytest

from semimae.files import held_lock, remove_folder, replaced_folder, write_csv, write_text
from semimae.types import Interrupted


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


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is forced to the disk and renamed, in order."""
    seen: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor: int) -> None:
        seen.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        fsync(descriptor)

    def watched_replace(old: Path, new: Path) -> None:
        seen.append(("rename", Path(new).name))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    return seen


def test_content_is_on_the_disk_before_its_name_is(
    tmp_path: Path, disk: list[tuple[str, str]]
) -> None:
    (tmp_path / ".a.txt.tmp").write_text("of a process that was killed")
    write_text(tmp_path / "a.txt", "new")
    assert disk == [("sync", ".a.txt.tmp"), ("rename", "a.txt"), ("sync", tmp_path.name)]
    assert os.listdir(tmp_path) == ["a.txt"]
    disk.clear()
    with replaced_folder(tmp_path / "out") as folder:
        (folder / "b.txt").write_text("b")
    assert disk == [
        ("sync", "b.txt"),
        ("sync", ".out.tmp"),
        ("rename", "out"),
        ("sync", tmp_path.name),
    ]


def test_a_folder_is_removed_under_another_name(
    tmp_path: Path, disk: list[tuple[str, str]]
) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    remove_folder(tmp_path / "a")
    remove_folder(tmp_path / "a")  # is not there any more
    assert disk == [("rename", ".a.old.tmp")] * 2
    assert not os.listdir(tmp_path)


def test_one_at_a_time_holds_a_lock(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lock, order, inside = tmp_path / "a.lock", [], threading.Event()

    def second() -> None:
        with held_lock(lock, lambda: False) as waited:
            order.append(("second", waited))

    def stopped() -> bool:
        inside.set()
        return True

    with caplog.at_level("INFO"), held_lock(lock, lambda: False) as waited:
        assert not waited
        with pytest.raises(Interrupted, match="while waiting"), held_lock(lock, stopped):
            raise AssertionError("two processes have the lock")
        assert inside.is_set()
        other = threading.Thread(target=second)
        other.start()
        while caplog.text.count("another process is working on a") < 2:
            pass
        order.append(("first", waited))
    other.join()
    assert order == [("first", False), ("second", True)]
