"""What is published where, towers and checkpoints: fetched whole or not at all, and looked into."""

from __future__ import annotations

import logging
import re
import shutil
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import yaml
from huggingface_hub.file_download import http_get
from open_clip.factory import load_state_dict

from score.errors import ConfigError, OutputError, WeightsError
from score.files import check_writable, sha256
from score.model.towers.open_clip import HUB, OpenCLIPTower, find_weights, open_clip_tower

STAGING = ".fetching"  # beside the finished files: a download that was cut off goes on from there
CHECKPOINT = "epoch_20.pt"  # what an archive of open_clip's training holds


@dataclass(frozen=True)
class Published:
    """Weights, as a file in ``configs/tower`` or ``configs/released`` states them.

    Attributes:
        file: its path where it is published.
        repository: the address of that place.
        url: the file's own address, for what is on no hub.
        md5: first digits of the file's MD5, None if not known.
        licence: terms of use, as far as they are stated there.
        megabytes: size of the file, 10^6 bytes, None if not known.
        sha256: of the file, hexadecimal, None if not known.
        archive: address of a zip archive that holds it, for what is on no hub.
        settings: what else the file states.
    """

    name: str
    file: str
    repository: str
    licence: str
    megabytes: int | None
    sha256: str | None
    archive: str | None
    settings: Mapping[str, Any]
    url: str | None = None
    md5: str | None = None

    @property
    def address(self) -> str:
        """Where a browser finds the file."""
        return self.archive or self.url or f"{self.repository}/resolve/main/{self.file}"

    def tower(self, path: Path) -> OpenCLIPTower:
        """Build the tower from a file."""
        chosen = {key: self.settings[key] for key in ("architecture", "quick_gelu", "precision")}
        return open_clip_tower(weights=str(path), published={}, **chosen)

    def find(self, folder: Path | None) -> Path | None:
        """Its file in ``folder`` or in the hub's cache, or None."""
        try:
            return find_weights({"file": self.file, "repository": self.repository}, folder)
        except WeightsError:
            return None


def read(folder: Path) -> dict[str, Published]:
    """Read ``configs/tower`` or ``configs/released``: everything there by its name."""
    known = {}
    for path in sorted(folder.glob("*.yaml")):
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        published = {"archive": None, **settings.pop("published")}
        known[path.stem] = Published(name=path.stem, settings=settings, **published)
    return known


def choose(known: Mapping[str, Published], name: str) -> Published:
    """One of the known ones.

    Raises:
        ConfigError: it is not one of them.
    """
    if name not in known:
        raise ConfigError(f"no weights {name}; there are {', '.join(known)}")
    return known[name]


def fetch(tower: Published, folder: Path, hub: str | None = None, mirror: str | None = None) -> Path:
    """Download a file into a folder; what was cut off goes on, and only a whole, verified file gets its name.

    Args:
        folder: made if missing.
        hub: address of the hub, None for huggingface_hub's own setting (``HF_ENDPOINT``).
        mirror: an address that the file is under by its name, in place of where it is published.

    Returns:
        The file, which may have been there.

    Raises:
        WeightsError: there is no network, it is not there any more, a web page came instead, or a digest is wrong.
        OutputError: the folder cannot be written to.
    """
    target = folder / Path(tower.file).name
    if target.is_file():
        verify(target, tower.sha256, tower.md5)
        return target
    check_writable(folder)
    staging = folder / STAGING
    try:
        staging.mkdir(parents=True, exist_ok=True)
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        stated = None
        if url := f"{mirror.rstrip('/')}/{target.name}" if mirror else tower.url:
            found = _download(url, staging / target.name)
        elif tower.archive:
            found = _from_archive(tower.archive, staging)
        else:
            found, stated = _from_hub(tower, staging, hub)
    except Exception as error:  # of the network: each library under huggingface_hub has its own
        if isinstance(error, (WeightsError, OutputError)):
            raise
        if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
            raise OutputError(f"cannot write {error.filename} ({error.strerror}); choose another folder") from error
        if not any(path.stat().st_size for path in staging.rglob("*") if path.suffix in (".incomplete", ".partial")):
            shutil.rmtree(staging)  # nothing came
        reason = " ".join((str(error) or type(error).__name__).split())[:160]
        raise WeightsError(
            f"cannot fetch {tower.name} ({reason}); without a network, bring {tower.address} and put it into {folder}"
            + (f", its {CHECKPOINT} as {target.name}" if tower.archive else "")
        ) from error
    try:
        verify(found, tower.sha256 or stated, tower.md5)
    except WeightsError:
        shutil.rmtree(staging)  # or the next attempt would find it whole
        raise
    found.replace(target)
    shutil.rmtree(staging)
    return target


def stored_type(path: Path) -> str:
    """The number type that most of a checkpoint's tensors have, such as ``float32``."""
    state = load_state_dict(str(path), device="cpu", weights_only=True)
    counts = Counter(value.dtype for value in state.values() if value.is_floating_point())
    return str(counts.most_common(1)[0][0]).removeprefix("torch.")


def _from_hub(tower: Published, staging: Path, hub: str | None) -> tuple[Path, str | None]:
    """The file, and the SHA-256 that the hub states of it: a large file's ETag."""
    repository = tower.repository.removeprefix(HUB)
    url = huggingface_hub.hf_hub_url(repository, tower.file, endpoint=hub)
    etag = huggingface_hub.get_hf_file_metadata(url, endpoint=hub).etag or ""
    path = huggingface_hub.hf_hub_download(repository, tower.file, local_dir=staging, endpoint=hub)
    return Path(path), etag if re.fullmatch("[0-9a-f]{64}", etag) else None


def _download(address: str, target: Path) -> Path:
    """A file at an address of its own; what was cut off goes on."""
    partial = target.with_suffix(".partial")
    if not target.is_file():
        with partial.open("ab") as file:
            http_get(address, file, resume_size=file.tell(), displayed_filename=target.name)
        with partial.open("rb") as file:
            if file.read(64).lstrip().startswith(b"<"):  # neither archives nor checkpoints begin so
                partial.unlink()
                raise WeightsError(
                    f"{address} gave a web page instead of {target.name}; open it in a browser to read what it says"
                )
        partial.replace(target)
    return target


def _from_archive(address: str, staging: Path) -> Path:
    """The checkpoint in a zip archive, unpacked beside it."""
    archive = _download(address, staging / address.rsplit("/", 1)[-1])
    try:
        with zipfile.ZipFile(archive) as content:
            members = [name for name in content.namelist() if Path(name).name == CHECKPOINT]
            if len(members) != 1:
                raise WeightsError(f"{address} holds {len(members)} files {CHECKPOINT} instead of one")
            with content.open(members[0]) as source, (staging / CHECKPOINT).open("wb") as unpacked:
                shutil.copyfileobj(source, unpacked, 1 << 20)
    except zipfile.BadZipFile as error:
        archive.unlink()
        raise WeightsError(f"{address} is no zip archive ({error}); it was removed, fetch it again") from error
    return staging / CHECKPOINT


def verify(path: Path, expected: str | None, md5: str | None = None) -> None:
    """Compare a file with its SHA-256 and the first digits of its MD5, where they are known.

    Raises:
        WeightsError: it is another file.
    """
    for name, wanted, algorithm in (("SHA-256", expected, "sha256"), ("MD5", md5, "md5")):
        if wanted is not None and not (found := sha256(path, algorithm)).startswith(wanted):
            raise WeightsError(
                f"{path} has the {name} {found[:16]}... instead of {wanted[:16]}...: another file, or damaged; "
                "remove it and fetch it again"
            )
