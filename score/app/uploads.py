"""Images that users of the page bring: kept apart, looked at one after the other, forgotten when there are too many."""

from __future__ import annotations

import logging
import re
import secrets
import shutil
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from score.app.upload import Limits, RefusedError, Upload, gone
from score.errors import ScoreError

if TYPE_CHECKING:
    from score.rasters import Progress
    from score.segmenter import Segmenter

logger = logging.getLogger(__name__)


class _StoppedError(Exception):
    """Nobody waits for the image any more."""


class Uploads:
    """All images, and the thread that looks at them in the order in which they came.

    Args:
        segmenter: the model.
        folder: for their files; removed by `close`.
        limits: of an image, and of their number.
    """

    def __init__(self, segmenter: Segmenter, folder: Path, limits: Limits) -> None:
        self.segmenter, self.folder, self.limits = segmenter, folder, limits
        self._all: dict[str, Upload] = {}
        self._queue: list[Upload] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def add(self, name: str) -> Upload:
        """A place for an image that is about to come.

        Raises:
            RefusedError: too many are coming, or wait.
        """
        with self._changed:
            busy = sum(not item.idle for item in self._all.values())
            if busy >= self.limits.images:
                raise RefusedError(503, f"{busy} images are waiting already; try again in a minute")
            upload = Upload(key := secrets.token_urlsafe(18), self.folder / secrets.token_hex(8), clean(name))
            upload.folder.mkdir()
            self._all[key] = upload
            return upload

    def get(self, key: str) -> Upload:
        """The image of a key.

        Raises:
            RefusedError: there is none, or none any more.
        """
        with self._changed:
            if key not in self._all:
                raise gone()
            self._all[key].used = time.monotonic()
            return self._all[key]

    def look(self, upload: Upload) -> None:
        """Queue an image that came for the model; one that was not used for the longest time makes room."""
        with self._changed:
            upload.state = "waiting"
            self._queue.append(upload)
            self._changed.notify()
            idle = sorted((item for item in self._all.values() if item.idle), key=_used)
            over = idle[: max(0, len(self._all) - self.limits.images)]
        for item in over:
            self.drop(item)

    def before(self, upload: Upload) -> int:
        """How many images the model looks at before this one."""
        with self._changed:
            looking = sum(item.state == "looking" for item in self._all.values())
            return self._queue.index(upload) + looking if upload in self._queue else 0

    def drop(self, upload: Upload) -> None:
        """Forget an image, and remove its files."""
        with self._changed:
            self._all.pop(upload.key, None)
            upload.state = "gone"
            if upload in self._queue:
                self._queue.remove(upload)
        shutil.rmtree(upload.folder, ignore_errors=True)

    def close(self) -> None:
        """Forget all images; the model stops after the tile that it is at."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        for upload in list(self._all.values()):
            self.drop(upload)
        self._thread.join(timeout=2)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _work(self) -> None:
        while (upload := self._next()) is not None:
            try:
                self._look(upload)
                self._end(upload, "ready")
            except _StoppedError:
                pass
            except ScoreError as error:
                self._end(upload, "failed", upload.told(error))
            except Exception:  # a user's image must not end the work for all others
                logger.exception("looking at %s", upload.name)
                self._end(upload, "failed", f"{upload.name}: the model failed on it; the program's log says how")
            if upload.state == "gone":
                shutil.rmtree(upload.folder, ignore_errors=True)

    def _end(self, upload: Upload, state: str, error: str = "") -> None:
        with self._changed:
            if upload.state != "gone":
                upload.state, upload.error = state, error

    def _next(self) -> Upload | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
            if self._closed:
                return None
            upload = self._queue.pop(0)
            upload.state = "looking"
            return upload

    def _look(self, upload: Upload) -> None:
        def report(progress: Progress) -> None:
            upload.progress = progress
            if self._closed or upload.state == "gone":
                raise _StoppedError

        batch_size = (
            1 if self.segmenter.model.device.type == "cpu" else 4
        )  # one gains nothing there, and tells more often
        upload.view = self.segmenter.look_raster(
            upload.raster, batch_size=batch_size, folder=upload.folder / "tiles", report=report
        )


def clean(name: str) -> str:
    """A file's name as it can be shown: without folders and control characters."""
    last = re.split(r"[\\/]", name)[-1]
    return "".join(letter for letter in last if letter.isprintable()).strip(" .")[:100] or "image"


def _used(upload: Upload) -> float:
    return upload.used
