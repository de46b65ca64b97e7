"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import portalocker
from platformdirs import user_cache_path

from score import DISTRIBUTION
from score.errors import InstallError, OutputError


def shipped(name: str) -> Path:
    """The folder ``configs``, ``datasets`` or ``tools``: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    return package / name if (package / name).is_dir() else package.parent / name


EXTRAS = {  # what is installed by name only: modules, and the name that brings them
    "geo": ("affine", "geopandas", "pyarrow", "pyogrio", "pyproj", "rasterio", "shapely", "skimage"),
    "catalogue": ("dask", "distributed", "psycopg", "pystac_client"),
    "app": ("fastapi", "uvicorn"),
}


def not_installed(error: ModuleNotFoundError) -> ImportError:
    """Say how to get what is missing: detectron2, which pip cannot get, for PyPI has none, or an extra's module."""
    missing = (error.name or "").partition(".")[0]
    for extra, modules in EXTRAS.items():
        if missing in modules:
            return InstallError(f"{missing} is not installed; get it with pip install '{DISTRIBUTION}[{extra}]'")
    if missing != "detectron2":
        return error
    make = shlex.join([sys.executable, str(shipped("tools") / "detectron2_wheel.py")])
    return InstallError(f"detectron2 is not installed, and PyPI has none; make and install it with {make}")


def is_address(source: str | Path) -> bool:
    """Whether it is no file of this machine, but something that GDAL finds."""
    text = str(source)
    return "://" in text or text.startswith(("/vsi", "<")) or re.match(r"[A-Z][A-Z\d_]+:", text) is not None


def is_catalogue(source: object) -> bool:
    """Whether it lists rasters and is none itself: a ``.parquet`` or ``.json`` file, or a STAC API's address."""
    text = str(source)
    if text.startswith(("http://", "https://")):
        suffix = os.path.splitext(urlsplit(text).path.rpartition("/")[2])[1]
        return "{" not in text and not suffix.strip(".0123456789")  # .../v1.0 is no suffix
    return isinstance(source, str | Path) and text.lower().endswith((".parquet", ".json", ".geojson"))


def is_database(output: object) -> bool:
    """Whether an output is the address of a database."""
    return str(output).startswith(("postgresql://", "postgres://"))


def cache_folder(setting: str | Path | None) -> Path | None:
    """Where what can be made again is kept: a folder, ``user`` for this user's cache, None for nowhere."""
    return user_cache_path("score-segmenter") if setting == "user" else Path(setting) if setting else None


def user_folder(kind: str) -> Path:
    """Where this user's ``weights`` and ``models`` are: in the folder that ``SCORE_CACHE`` names, or the cache."""
    return (cache_folder(os.environ.get("SCORE_CACHE") or "user") or Path()) / kind


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Call ``write`` with a temporary name beside ``path``, then rename; missing folders are made.

    Raises:
        OutputError: no space, or no right to write.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.touch()
            mode = partial.stat().st_mode
            write(partial)
            partial.chmod(mode)  # as the umask has it: safetensors makes files that only their owner may read
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:  # PyTorch and safetensors report a full disk as a RuntimeError
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error).splitlines()[0]
        raise OutputError(f"cannot write {path} ({reason}); free some space or choose another output") from error


def append_line(path: Path, text: str) -> None:
    """Append a line in UTF-8, kept through a power cut; of one that a full disk cuts off, see :func:`json_lines`.

    Raises:
        OutputError: no space, or no right to write.
    """
    try:
        with path.open("ab", buffering=0) as file:
            left = memoryview(f"{text}\n".encode())
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
    except OSError as error:  # the system does not name the file where a disk is full
        reason = f"{error.strerror}); free some space or choose another output"
        raise OutputError(f"cannot write {path} ({reason}") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all.

    Raises:
        OutputError: no space, or no right to write.
    """
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file that is appended to, a line each; a last line that was cut off is cut away.

    Raises:
        OutputError: a line is damaged.
    """
    if not path.exists():
        return
    end = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            end += len(line)
            try:
                yield json.loads(line)
            except ValueError as error:
                raise OutputError(
                    f"{path} is damaged ({error}); set overwrite=true, or choose another output"
                ) from error
    os.truncate(path, end)


def save_json(path: str | Path, obj: Any, indent: int | None = 1) -> None:
    """Write JSON, whole or not at all; None becomes ``null``, and NaN is refused.

    Raises:
        OutputError: the folder cannot be written to.
        ValueError: a NaN or infinity.
    """
    write_text(Path(path), json.dumps(obj, indent=indent, allow_nan=False, ensure_ascii=False) + "\n")


def sha256(path: Path, algorithm: str = "sha256") -> str:
    """A file's SHA-256, or another digest, in hexadecimal; read once as long as its size and times stay the same."""
    facts = path.stat()
    return _digest(path.absolute(), algorithm, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)


@functools.cache
def _digest(path: Path, algorithm: str, *facts: int) -> str:
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes of this machine that ask so out of a folder, which need not exist, and need not afterwards.

    Raises:
        OutputError: another process is in it.
    """
    lock = Path(tempfile.gettempdir()) / f"score-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]}.lock"
    try:
        with portalocker.Lock(lock, fail_when_locked=True):
            yield
    except portalocker.AlreadyLocked as error:
        raise OutputError(
            f"{folder}: another process is writing there; wait for it, or choose another output"
        ) from error


def check_writable(folder: Path) -> None:
    """Check that ``folder`` exists or can be made, and can be written to, leaving no trace.

    Raises:
        OutputError: it cannot.
    """
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    probe = existing / f".score-{os.getpid()}"
    try:
        probe.mkdir()  # rights alone do not tell: root has them all, and a read-only disk grants them
        probe.rmdir()
    except OSError as error:
        raise OutputError(f"cannot write to {folder} ({error.strerror}); choose another output") from error
