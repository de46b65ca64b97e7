"""Predict once, evaluate often: what the network said of each image, before classes are combined and pairs chosen.

One SQLite file a model and dataset. Every image is committed as it comes, so a run that was cut off goes on, and
several processes may write. Images are read one by one: memory does not grow with the dataset.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from score.detections import Detection
from score.errors import OutputError, WeightsError
from score.masks import RLE
from score.model.classifier import Ensemble
from score.model.postprocess import best_pairs

WAIT = 60.0  # seconds that one process waits for another's write


@dataclass(frozen=True)
class CachedImage:
    """One image's predictions, for ``Q`` queries and ``C`` classes.

    Attributes:
        size: height and width of the masks, which are those of the image.
        in_logits: ``[Q, C + 1]`` fp32 of the trained classifier, void last.
        out_logits: ``[Q, C]`` fp32 of the frozen tower.
        quality: ``[Q]`` fp32, the `sureness` of each mask.
        rles: ``Q`` masks.
        embeds: where they were kept, what logits are made of: ``class`` and ``region`` ``[Q, E]``, ``scene`` ``[E]``.
    """

    image_id: int | str
    size: tuple[int, int]
    in_logits: NDArray[np.float32]
    out_logits: NDArray[np.float32]
    quality: NDArray[np.float32]
    rles: list[RLE]
    embeds: Mapping[str, NDArray[np.float32]] | None = None

    def instances(self, ensemble: Ensemble, seen: torch.Tensor, top_k: int) -> list[Detection]:
        """The best ``top_k`` query-class pairs, as the model itself would choose them; ``seen`` is ``[C]`` bool."""
        chances = ensemble(torch.from_numpy(self.in_logits), torch.from_numpy(self.out_logits), seen)
        scores, query, label = best_pairs(chances, top_k)
        scores = scores * torch.from_numpy(self.quality)[query]
        found = zip(label.tolist(), scores.tolist(), query.tolist(), strict=True)
        return [Detection(label, score, self.rles[query]) for label, score, query in found]


class PredictionCache(AbstractContextManager["PredictionCache"]):
    """A file of :class:`CachedImage`, opened for reading and writing.

    Args:
        path: made if missing.
        facts: what its content depends on, such as the weights' hash and the names; a file made from others is refused.

    Raises:
        OutputError: the file cannot be opened or made.
        WeightsError: it holds predictions of something else.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self.path, self.facts = path, dict(facts)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=WAIT)
            with self._database as database:
                database.execute("CREATE TABLE IF NOT EXISTS images (id TEXT PRIMARY KEY, data BLOB)")
                database.execute("CREATE TABLE IF NOT EXISTS facts (facts TEXT)")
                text = json.dumps(self.facts, sort_keys=True)
                known = database.execute("SELECT facts FROM facts").fetchone()
                if known is None:
                    database.execute("INSERT INTO facts VALUES (?)", (text,))
        except (sqlite3.Error, OSError) as error:
            raise OutputError(f"cannot use {path} ({error}); remove it or choose another output") from error
        if known is not None and known[0] != text:
            stored = json.loads(known[0])
            differ = sorted(key for key in {*stored, *self.facts} if stored.get(key) != self.facts.get(key))
            raise WeightsError(f"{path} holds predictions of another {', '.join(differ)}; remove it or choose another")

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def __len__(self) -> int:
        """Images in it."""
        return self._ask("SELECT COUNT(*) FROM images")[0]

    def __contains__(self, image_id: int | str) -> bool:
        return self._ask("SELECT 1 FROM images WHERE id = ?", json.dumps(image_id)) is not None

    def __getitem__(self, image_id: int | str) -> CachedImage:
        """One image.

        Raises:
            KeyError: it is not in it.
            OutputError: the file is damaged.
        """
        row = self._ask("SELECT data FROM images WHERE id = ?", json.dumps(image_id))
        if row is None:
            raise KeyError(image_id)
        try:
            return _unpack(image_id, row[0])
        except (zlib.error, SafetensorError, ValueError) as error:
            raise self._damaged(error) from error

    def add(self, image: CachedImage) -> None:
        """Write one image, or write it anew.

        Raises:
            OutputError: no space, or no right to write.
        """
        try:
            with self._database as database:
                database.execute(
                    "INSERT OR REPLACE INTO images VALUES (?, ?)", (json.dumps(image.image_id), _pack(image))
                )
        except sqlite3.Error as error:
            raise OutputError(f"cannot write {self.path} ({error}); free space or choose another output") from error

    def size(self) -> int:
        """Bytes that all images take."""
        return self._ask("SELECT COALESCE(SUM(LENGTH(data)), 0) FROM images")[0]

    def _ask(self, query: str, *values: str) -> Any:
        try:
            return self._database.execute(query, values).fetchone()
        except sqlite3.Error as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> OutputError:
        return OutputError(f"{self.path} cannot be read ({error}); remove it, predictions are then made anew")


def _pack(image: CachedImage) -> bytes:
    counts = [rle["counts"].encode("ascii") for rle in image.rles]
    arrays = {
        "in_logits": image.in_logits,
        "out_logits": image.out_logits,
        "quality": image.quality,
        "size": np.array(image.size, dtype=np.int32),
        "lengths": np.array([len(text) for text in counts], dtype=np.int32),
        # run lengths repeat, logits do not: only the former are worth compressing
        "counts": np.frombuffer(zlib.compress(b"".join(counts)), dtype=np.uint8),
        **{f"embeds.{name}": value for name, value in (image.embeds or {}).items()},
    }
    return save({name: np.ascontiguousarray(value) for name, value in arrays.items()})


def _unpack(image_id: int | str, data: bytes) -> CachedImage:
    arrays = load(data)
    height, width = arrays["size"].tolist()
    text, start, rles = zlib.decompress(arrays["counts"].tobytes()).decode("ascii"), 0, []
    for length in arrays["lengths"].tolist():
        rles.append(RLE(size=[height, width], counts=text[start : start + length]))
        start += length
    embeds = {name.removeprefix("embeds."): value for name, value in arrays.items() if name.startswith("embeds.")}
    return CachedImage(
        image_id,
        (height, width),
        arrays["in_logits"],
        arrays["out_logits"],
        arrays["quality"],
        rles,
        embeds or None,
    )
