"""Find the images below a folder, for `prepare` and `predict`, and record what is skipped."""

import os
import stat
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from semimae.data.images import SUFFIXES, recognize
from semimae.types import UserError

HIDDEN = "hidden"
LEFT_BEHIND = "created by the operating system"
READ_ALREADY = "link to a folder that is already read"
NO_IMAGE = "not an image"
# Why files with these suffixes are never read as images, even if their content looks like one.
_REASONS = {
    "raw photo; export it as JPEG or TIFF": ".dng .nef .cr2 .cr3 .arw .orf .rw2 .raf .pef .srw",
    "unsupported image format; convert it": ".dcm .dicom .nii .psd .xcf .svg "
    ".pdf .eps .jxl .exr .hdr .ico .tga",
    "video; save its frames as images": ".mp4 .mov .avi .mkv .webm .m4v .mpg .mpeg",
    "archive; unpack it": ".zip .tar .gz .tgz .bz2 .xz .7z .rar",
    "incomplete download": ".part .crdownload .download .tmp",
}
_BY_SUFFIX = {suffix: reason for reason, all_ in _REASONS.items() for suffix in all_.split()}
# Raw photos and microscope slides are TIFF files with a thumbnail where Pillow looks.
_TIFF = "contains TIFF data under another name; rename it to .tif if it is an image"
_SYSTEM_FILES = {".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", ".localized"}
_SYSTEM_FOLDERS = {
    "__macosx",
    "@eadir",
    "#recycle",
    "#snapshot",
    "@recycle",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "__pycache__",
    ".ipynb_checkpoints",
    ".spotlight-v100",
    ".fseventsd",
    ".trashes",
    ".appledouble",
    ".thumbnails",
    ".@__thumb",
}


class Skipped(NamedTuple):
    """A file or folder that is not read."""

    path: str  # a folder's path ends in "/"
    reason: str


class Walker:
    """Finds the images below folders of one root, and records what it skips.

    Linked folders are followed, but each folder is read only once. A link is skipped if its folder
    has been read already, contains the link itself, or was passed to `reserve`.
    """

    def __init__(self, root: str) -> None:
        """Start with only ``root`` seen. All paths are relative to it."""
        self.root = root
        self.skipped: list[Skipped] = []
        self._seen = {_identity(root)}
        self._reserved: set[tuple[int, int]] = set()

    def reserve(self, folders: Iterable[str]) -> None:
        """Reserve folders for their own call of `images`: links from elsewhere are skipped."""
        self._reserved |= {_identity(os.path.join(self.root, folder)) for folder in folders}

    def images(self, folder: str = "") -> list[str]:
        """Return the images below a folder as paths relative to the root, with "/" as separator.

        In each folder, files come first, by name, then folders. Linked folders come last: images
        that lie below ``folder`` anyway keep their own path.

        Raises:
            UserError: If a folder cannot be listed.
        """
        found: list[str] = []
        waiting, links = [folder], deque[str]()
        while waiting or links:
            place = waiting.pop() if waiting else links.popleft()
            if place:
                identity = _identity(os.path.join(self.root, place))
                if identity in self._seen or (place != folder and identity in self._reserved):
                    self.skipped.append(Skipped(f"{place}/", READ_ALREADY))
                    continue
                self._seen.add(identity)
            files, folders, linked = self.entries(place)
            found += files
            waiting += reversed(folders)
            links += linked
        return found

    def entries(self, folder: str) -> tuple[list[str], list[str], list[str]]:
        """Return the images, folders and linked folders directly in a folder, by name.

        Raises:
            UserError: If it cannot be listed.
        """
        files: list[str] = []
        folders: list[str] = []
        linked: list[str] = []
        for entry in listed(os.path.join(self.root, folder)):
            path = f"{folder}/{entry.name}" if folder else entry.name
            if _is_folder(entry):
                reason = _folder_reason(entry.name)
                if reason is None:
                    (linked if entry.is_symlink() else folders).append(path)
                path += "/"
            elif (reason := file_reason(entry.path)) is None:
                files.append(path)
            if reason is not None:
                self.skipped.append(Skipped(path, reason))
        return files, folders, linked


def listed(folder: str) -> list[os.DirEntry[str]]:
    """Return the entries of a folder, by name.

    Raises:
        UserError: If it cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be listed ({error.strerror}); make it readable or move it away."
        ) from error


def file_reason(path: str) -> str | None:
    """Return why a file is not an image, or None: by a known suffix, otherwise by content."""
    name = os.path.basename(path)
    if name.lower() in _SYSTEM_FILES or name.startswith("._"):
        return LEFT_BEHIND
    if name.startswith("."):
        return HIDDEN
    suffix = os.path.splitext(name)[1].lower()
    if suffix in SUFFIXES:  # if something is wrong with it, decoding will tell
        return None
    if suffix in _BY_SUFFIX:
        return f"{suffix}: {_BY_SUFFIX[suffix]}"
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return "not a regular file"
        form = recognize(path)
    except OSError as error:
        return "broken link" if os.path.islink(path) else f"{error.strerror}"
    if form == "TIFF" and suffix:
        return _TIFF
    if form is None:
        usual = len(suffix) < 9 and suffix.isascii() and suffix[1:].isalnum()
        return f"{NO_IMAGE} ({suffix if usual else 'no common suffix'})"
    return None


def _folder_reason(name: str) -> str | None:
    if name.lower() in _SYSTEM_FOLDERS or name.lower().startswith(".trash"):
        return LEFT_BEHIND
    return HIDDEN if name.startswith(".") else None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(folder: str) -> tuple[int, int]:
    try:
        status = os.stat(folder)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be read ({error.strerror}); make it readable or move it away."
        ) from error
    return status.st_dev, status.st_ino
