"""add-labels: all rows of a list or none, from disk to disk, with a hint for each mistake."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from support import changed_params
from typer.testing import CliRunner

from pipeline import moves
from pipeline.__main__ import app
from semimae.types import UserError


class Labeling:
    """A folder of images of which some are labeled, and a file of labels."""

    def __init__(self, root: Path) -> None:
        self.root, self.images, self.todo = root, root / "images", root / "todo.csv"
        (root / "dvc.yaml").touch()
        self.dataset("imagefolder")
        for color, name in enumerate(
            ("train/cat/0", "train/dog/0", "unlabeled/1", "unlabeled/deep/2")
        ):
            path = self.images / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), color).save(path)

    def dataset(self, name: str) -> None:
        (self.root / "params.yaml").write_text(changed_params(dataset=name).model_dump_json())

    def add(self, *labels: tuple[object, str]) -> str:
        lines = [f"{path},{rank},{label}" for rank, (path, label) in enumerate(labels)]
        return self.write("\n".join(["path,rank,label", *lines]) + "\n")

    def write(self, content: str) -> str:
        self.todo.write_text(content)
        result = CliRunner().invoke(app, ["add-labels", str(self.todo)])
        if result.exception is not None:
            raise result.exception
        return result.stdout

    def files(self) -> dict[str, bytes]:
        """Everything below the images, hidden files and folders too, links followed."""
        found: dict[str, bytes] = {}
        for parent, folders, files in os.walk(self.images, followlinks=True):
            place = Path(parent).relative_to(self.images)
            found |= {f"{place / name}/": b"" for name in folders}
            found |= {f"{place / name}": (Path(parent) / name).read_bytes() for name in files}
        return found


@pytest.fixture
def labeling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Labeling:
    made = Labeling(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("SEMIMAE_DATA", str(made.images))
    return made


def two_disks(labeling: Labeling, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file can be renamed from unlabeled/ to train/, or back, as if one were another disk."""
    rename = os.rename

    def renaming(source: Path, target: Path) -> None:
        if ("unlabeled" in str(source)) != ("unlabeled" in str(target)):
            raise OSError(errno.EXDEV, "Invalid cross-device link", str(source))
        rename(source, target)

    monkeypatch.setattr(os, "rename", renaming)


@pytest.fixture(params=["one disk", "two disks", "really two disks"])
def disks(
    request: pytest.FixtureRequest, labeling: Labeling, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Labeling]:
    if request.param == "two disks":
        two_disks(labeling, monkeypatch)
    if request.param != "really two disks":
        yield labeling
        return
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == labeling.images.stat().st_dev:
        pytest.skip("needs a second file system at /dev/shm")
    with tempfile.TemporaryDirectory(dir=memory) as other:
        shutil.move(labeling.images / "unlabeled", other)
        (labeling.images / "unlabeled").symlink_to(Path(other) / "unlabeled")
        yield labeling


# --- moving


def test_labeled_files_move_to_their_class(disks: Labeling) -> None:
    before = disks.files()
    said = disks.add(("unlabeled/1.png", "dog"), ("unlabeled/deep/2.png", ""))
    assert said.startswith("Labeled: 1. Next: `dvc repro -f prepare`")
    moved = {("train/dog/1.png" if k == "unlabeled/1.png" else k): v for k, v in before.items()}
    assert disks.files() == moved
    disks.add(("unlabeled/deep/2.png", "cat"))
    assert disks.files()["train/cat/deep/2.png"] == before["unlabeled/deep/2.png"]


def test_moves_are_undone_if_one_fails(disks: Labeling, monkeypatch: pytest.MonkeyPatch) -> None:
    before, move = disks.files(), moves._move

    def failing(source: Path, target: Path) -> None:
        if source.name == "2.png":
            raise OSError(errno.ENOSPC, "No space left on device", str(source))
        move(source, target)

    monkeypatch.setattr(moves, "_move", failing)
    with pytest.raises(UserError, match="No space left on device"):
        disks.add(("unlabeled/1.png", "dog"), ("unlabeled/deep/2.png", "cat"))
    assert disks.files() == before


@pytest.mark.parametrize("step", ["copyfile", "file_hash", "replace", "unlink"])
@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error", "x"), KeyboardInterrupt]
)
def test_nothing_half_written_stays_between_two_disks(
    step: str,
    error: BaseException | type[BaseException],
    labeling: Labeling,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever fails with the second file, the first one is back."""
    two_disks(labeling, monkeypatch)
    before, failed = labeling.files(), []

    def once(whole: Callable[..., object]) -> Callable[..., object]:
        def failing(*given: object, **options: object) -> object:
            if any("2.png" in str(each) for each in given) and not failed:
                failed.append(step)
                if step == "copyfile":  # half of it has been written by then
                    Path(str(given[1])).write_bytes(b"half")
                raise error
            return whole(*given, **options)

        return failing

    owner, name = {
        "copyfile": (shutil, "copyfile"),
        "file_hash": (moves, "file_hash"),
        "replace": (os, "replace"),
        "unlink": (Path, "unlink"),
    }[step]
    monkeypatch.setattr(owner, name, once(getattr(owner, name)))
    with pytest.raises((UserError, KeyboardInterrupt, SystemExit)):
        labeling.add(("unlabeled/1.png", "dog"), ("unlabeled/deep/2.png", "cat"))
    assert failed
    assert labeling.files() == before


def test_a_copy_that_differs_is_not_kept(
    labeling: Labeling, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_disks(labeling, monkeypatch)
    before = labeling.files()
    monkeypatch.setattr(shutil, "copyfile", lambda source, copy: Path(copy).write_bytes(b"bad"))
    with pytest.raises(
        UserError, match=r"1\.png cannot be moved \(the copy differs\); no file was moved"
    ):
        labeling.add(("unlabeled/1.png", "dog"))
    assert labeling.files() == before


def test_what_was_killed_between_copying_and_removing_is_finished(labeling: Labeling) -> None:
    source, target = labeling.images / "unlabeled/1.png", labeling.images / "train/dog/1.png"
    shutil.copy(source, target)
    (target.parent / ".1.png.tmp").write_bytes(b"half")  # as one that was killed earlier leaves it
    labeling.add(("unlabeled/1.png", "dog"))
    assert target.is_file()
    assert not source.exists()


def test_another_image_of_that_name_is_not_overwritten(labeling: Labeling) -> None:
    (labeling.images / "train/dog/1.png").write_bytes(b"another image")
    before = labeling.files()
    with pytest.raises(UserError, match=r"1\.png already exists; rename"):
        labeling.add(("unlabeled/1.png", "dog"))
    assert labeling.files() == before


# --- paths


def test_paths_as_predict_writes_them(
    disks: Labeling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole, by way of a link or not, or relative to where it was called."""
    monkeypatch.chdir(tmp_path)
    link = tmp_path / "by another way"
    link.symlink_to(disks.images)
    ways = [
        disks.images / "unlabeled/1.png",
        (disks.images / "unlabeled/1.png").resolve(),
        link / "unlabeled/1.png",
        "images/unlabeled/1.png",
        "./images/../images/unlabeled/1.png",
        "unlabeled/1.png",
    ]
    for way in ways:
        disks.add((way, "dog"))
        assert (disks.images / "train/dog/1.png").is_file(), way
        shutil.move(disks.images / "train/dog/1.png", disks.images / "unlabeled/1.png")


def test_one_image_under_two_names_needs_one_label(labeling: Labeling) -> None:
    whole = labeling.images / "unlabeled/1.png"
    with pytest.raises(UserError, match=r"unlabeled/1\.png has labels 'dog' and 'cat'; keep one"):
        labeling.add(("unlabeled/1.png", "dog"), (whole, "cat"))
    labeling.add(("unlabeled/1.png", "dog"), (whole, "dog"))


@pytest.mark.parametrize(
    ("path", "label", "said"),
    [
        ("unlabeled/deep/2.png", "dgo", "unknown label .*; did you mean 'dog'"),
        ("unlabeled/deep/2.png", "Dog", "unknown label .*; did you mean 'dog'"),
        ("unlabeled/deep/2.png", "DOG", "unknown label .*; did you mean 'dog'"),
        ("unlabeled/deep/2.png", "dog;", "unknown label .*; did you mean 'dog'"),
        ("unlabeled/deep/2.png", "'dog'", "unknown label .*; did you mean 'dog'"),
        ("unlabeled/deep/2.png", "\uff44\uff4f\uff47", "unknown label .*; did you mean 'dog'"),
        ("unlabeled/deep/2.png", "zebra", "to add a class, create its folder"),
        ("unlabeled/gone.png", "dog", "there is no file"),
        ("/unlabeled/1.png", "dog", "there is no file"),
        (__file__, "dog", "there is no file"),
        ("unlabeled/../train/cat/0.png", "dog", "'train/cat/0.png' is labeled as 'cat' already"),
        ("unlabeled/0.png", "dog", "'unlabeled/0.png' is labeled as 'cat' already; remove its"),
        ("train/cat/0.png", "dog", "'train/cat/0.png' is labeled as 'cat' already"),
        ("train/cat/none.png", "dog", "there is no file"),
        ("unlabeled/1.png", "cat", "has labels 'dog' and 'cat'"),
    ],
)
def test_with_one_wrong_row_nothing_moves(
    path: str, label: str, said: str, labeling: Labeling
) -> None:
    before = labeling.files()
    with pytest.raises(UserError, match=said):
        labeling.add(("unlabeled/1.png", "dog"), (path, label))
    assert labeling.files() == before


# --- the list


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("path;label\nunlabeled/1.png;dog\n", "separated by semicolons: save it with commas"),
        ("path\tlabel\nunlabeled/1.png\tdog\n", "separated by tabs: save it with commas"),
        ("Path;Label\nunlabeled/1.png;dog\n", "separated by semicolons"),
        ("Path,Label\nunlabeled/1.png,dog\n", "write 'path' instead of 'Path', write 'label' inst"),
        ("path,LABEL\nunlabeled/1.png,dog\n", "no column label; write 'label' instead of 'LABEL'"),
        ("path, label\nunlabeled/1.png, dog\n", "write 'label' instead of ' label'"),
        ("path,labels\nunlabeled/1.png,dog\n", "write 'label' instead of 'labels'"),
        ("image,label\nunlabeled/1.png,dog\n", "write 'path' instead of 'image'"),
        ("path,class\nunlabeled/1.png,dog\n", "no column label; write 'label' instead of 'class'"),
        ("unlabeled/1.png,dog\n", "no column path and no column label"),
        ("", "no column path and no column label"),
        ("path,label\nunlabeled/1.png\n", "line 2 does not have the columns of"),
        ("path,label\nunlabeled/1.png;dog\n", "line 2 does not have the columns of"),
        ("path,label\nunlabeled/1.png,dog,x\n", "line 2 does not have the columns of"),
        ("path,label\nunlabeled/1.png,\n", "no image has a label yet"),
        ('path,label\n"unlabeled/1.png,dog\n', "cannot be read"),
    ],
)
def test_a_list_of_another_form_gets_its_hint(content: str, said: str, labeling: Labeling) -> None:
    before = labeling.files()
    with pytest.raises(UserError, match=said) as error:
        labeling.write(content)
    assert "\n" not in str(error.value)
    assert labeling.files() == before


def test_a_list_in_another_encoding_is_refused(labeling: Labeling) -> None:
    labeling.todo.write_bytes("path,label\nunlabeled/1.png,dog\n".encode("utf-16"))
    result = CliRunner().invoke(app, ["add-labels", str(labeling.todo)])
    assert isinstance(result.exception, UserError)
    assert "give a csv file in UTF-8" in str(result.exception)


# --- manifests


def test_labels_go_into_the_rows_of_a_manifest(labeling: Labeling) -> None:
    labeling.dataset("csv")
    manifest = labeling.images / "manifest.csv"
    manifest.write_text("file,label\n")
    with pytest.raises(UserError, match=r"manifest\.csv has no column path"):
        labeling.add(("unlabeled/1.png", "dog"))
    manifest.write_text(
        "path,label,split\ntrain/cat/0.png,cat,\ntrain/dog/0.png,dog,test\n"
        "unlabeled/1.png,,\nunlabeled/deep/2.png,,unlabeled\n"
    )
    with pytest.raises(UserError, match="is in split test, where labels cannot be changed"):
        labeling.add(("unlabeled/1.png", "dog"), ("train/dog/0.png", "cat"))
    with pytest.raises(UserError, match="is not in"):
        labeling.add(("unlabeled/1.png", "dog"), ("unlabeled/3.png", "cat"))
    whole = labeling.images / "unlabeled/deep/2.png"
    labeling.add(("unlabeled/1.png", "dog"), (whole, "cat"))
    assert manifest.read_text() == (
        "path,label,split\ntrain/cat/0.png,cat,\ntrain/dog/0.png,dog,test\n"
        "unlabeled/1.png,dog,\nunlabeled/deep/2.png,cat,train\n"
    )


def test_a_data_set_of_others_is_not_relabeled(labeling: Labeling) -> None:
    labeling.dataset("digits")
    with pytest.raises(UserError, match="dataset=digits comes with its labels"):
        labeling.add(("unlabeled/1.png", "dog"))
