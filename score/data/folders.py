"""Files of images in a folder, by the names that a JSON has for them."""

from __future__ import annotations

import difflib
import functools
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from score.errors import DataError


class ImageFolder:
    """The folder that file names are relative to.

    Args:
        root: the folder.
        outside: whether names may lead out of it.
    """

    def __init__(self, root: Path, outside: bool = False) -> None:
        self.root, self.outside = root, outside
        self._listing = functools.cache(_listing)  # one listing is much cheaper than asking for each file

    def find(self, name: Any) -> tuple[str | None, str]:
        """Find the file that a name means.

        Returns:
            Its path, None if there is no such file; and the name that it was found by, where that is another: with
            slashes for backslashes, without the root's own folders in front, or in the other Unicode form.

        Raises:
            DataError: ``what; what to do``: no name of a file in the folder, or one that may mean several files.
        """
        if not isinstance(name, str) or not name.strip() or "\0" in name:
            raise DataError(f"has the file_name {name!r}; name its file")
        if "://" in name:
            raise DataError(f"has the address {name} for a file_name; download the image and name its file")
        if not self._is_allowed(name):
            raise DataError(
                f"has the file_name {name}, which is absolute or leads out of {self.root}; name it relative to "
                "that folder, or allow it with outside: true beside json and images"
            )
        if self._has(name):
            return str(self.root / os.path.normpath(name)), ""
        if (self.root / name).is_dir():
            raise DataError(f"has the file_name {name}, which is a folder; name its file")
        found = sorted({other for other in self._spellings(name) if self._is_allowed(other) and self._has(other)})
        if len(found) > 1:
            raise DataError(f"has the file_name {name}, which may mean {' or '.join(found)}; correct it")
        return (str(self.root / os.path.normpath(found[0])), found[0]) if found else (None, "")

    def near(self, name: str) -> str:
        """The most similar name in the folder, for a message; empty if there is none."""
        parent, own = os.path.split(name.replace("\\", "/"))
        close = difflib.get_close_matches(own, self._listing(self.root / parent) or self._listing(self.root), 1)
        return f", but there is {close[0]}" if close else ""

    def _is_allowed(self, name: str) -> bool:
        leaves = os.path.isabs(name) or os.path.normpath(name).split(os.sep)[0] == os.pardir
        return self.outside or not leaves

    def _has(self, name: str) -> bool:
        parent, own = os.path.split(os.path.normpath(name))
        return own in self._listing(self.root / parent)

    def _spellings(self, name: str) -> Iterator[str]:
        """Other ways to write a name."""
        above = self.root.resolve().parts
        for plain in {name, name.replace("\\", "/")}:
            parts = PurePosixPath(plain).parts
            for count in range(len(parts)):
                if not count or parts[:count] == above[-count:]:
                    rest = PurePosixPath(*parts[count:])
                    yield str(rest)
                    form = unicodedata.normalize("NFC", rest.name)
                    for other in self._listing(self.root / rest.parent):
                        if not other.isascii() and unicodedata.normalize("NFC", other) == form:
                            yield str(rest.with_name(other))


def _listing(folder: Path) -> frozenset[str]:
    """The names of the files in a folder."""
    if not folder.is_dir():
        return frozenset()
    with os.scandir(folder) as entries:
        return frozenset(entry.name for entry in entries if entry.is_file())


def nearest(path: Path) -> str:
    """What to do about a missing file: its nearest folder that does exist, and what that lacks."""
    there = next((parent for parent in path.parents if parent.is_dir()), None)
    return f"in {there} there is no {path.relative_to(there).parts[0]}" if there else "check the path"
