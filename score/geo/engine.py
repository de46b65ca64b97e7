"""Who works on the scenes of a catalogue: this process, or the workers of a dask cluster."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from score.errors import ConfigError, DataError
from score.geo.catalogue import Scene

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

    from score.geo.store import Entry, Store

Work: TypeAlias = "Callable[[Scene], GeoDataFrame]"
Came: TypeAlias = "tuple[Scene, Entry | BaseException]"

_made: dict[str, Work] = {}  # in each process, the one in use
_making = threading.Lock()


@dataclass(frozen=True)
class Task:
    """What is done with a scene, wherever: work on it, and store what was found. It can be pickled.

    Attributes:
        make: makes the work, once a process; a model is loaded there.
        store: of results.
    """

    make: Callable[[], Work]
    store: Store
    key: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __call__(self, scene: Scene) -> Entry:
        """Do it."""
        begin = time.perf_counter()
        with _making:
            if self.key not in _made:
                _made.clear()
                _made[self.key] = self.make()
        try:
            found = _made[self.key](scene)
        except ConfigError as error:  # settings that do not suit this scene, and may suit the others
            raise DataError(str(error)) from error
        return self.store.write(scene, found, time.perf_counter() - begin)


def local(scenes: Sequence[Scene], task: Task, *, retries: int = 1) -> Generator[Came]:
    """Do scenes one after the other in this process.

    Args:
        scenes: to do.
        task: with each.
        retries: how often one that failed is tried again.

    Yields:
        Each scene with what it came to, or with what went wrong the last time.
    """
    for scene in scenes:
        for left in range(retries, -1, -1):
            try:
                came: Entry | BaseException = task(scene)
                break
            except Exception as error:
                came = error
                if not left:
                    break
        yield scene, came


def dask(
    scenes: Sequence[Scene],
    task: Task,
    *,
    retries: int = 1,
    workers: int = 2,
    address: str | None = None,
    cluster: Any = None,
    timeout: float = 15,
) -> Generator[Came]:
    """Do scenes on the workers of a dask cluster; those of a worker that dies are done again by others.

    A scene that fails, or whose worker dies, more often than ``retries`` is given up; a scheduler of one's own counts
    deaths by its setting ``distributed.scheduler.allowed-failures``.

    Args:
        scenes: to do.
        task: with each.
        retries: how often one that failed is tried again.
        workers: processes to start on this machine, or jobs to ask ``cluster`` for.
        address: of a scheduler that runs already, as ``tcp://host:8786``; its workers need this package.
        cluster: one that dask can use, such as ``dask_jobqueue.SLURMCluster``.
        timeout: seconds to wait for the scheduler.

    Yields:
        As :func:`local`, in the order in which they are done.

    Raises:
        ConfigError: no scheduler answers.
    """
    import dask as settings
    from distributed import Client, KilledWorker, LocalCluster, as_completed

    # One scene a worker at a time: a death would otherwise count against scenes that only waited there.
    rules = {"distributed.scheduler.allowed-failures": retries, "distributed.scheduler.worker-saturation": 1.0}
    with settings.config.set(rules):
        if address is None and cluster is None:
            cluster = LocalCluster(
                n_workers=workers, threads_per_worker=1, dashboard_address=None, silence_logs=logging.CRITICAL
            )
        elif address is None:
            cluster.scale(workers)
        try:
            client = Client(address or cluster, timeout=timeout)
        except (OSError, ValueError) as error:
            raise ConfigError(f"engine.address={address}: no dask scheduler answers there") from error
        futures: list[Any] = []
        names = [f"scene-{task.key}-{number}" for number in range(len(scenes))]
        try:
            futures = client.map(task, scenes, key=names, retries=retries, pure=False)
            of = dict(zip(names, scenes, strict=True))
            for future in as_completed(futures):
                failure: BaseException | None = future.exception()
                if isinstance(failure, KilledWorker):
                    failure = DataError(f"its worker died {retries + 1} times; memory may not suffice")
                yield of[future.key], future.result() if failure is None else failure
        finally:
            client.cancel(futures)
            client.close()
            if cluster is not None:
                cluster.close()
