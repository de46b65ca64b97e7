"""Work on many scenes, each once, whatever stops in between."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from datetime import timedelta
from typing import NamedTuple

from score.errors import DataError, ScoreError
from score.geo.catalogue import Scene
from score.geo.engine import Came, Task, Work
from score.geo.store import Entry, Store


class Done(NamedTuple):
    """What work on scenes came to.

    Attributes:
        counts: objects by class, now and before.
        scenes: how many were done now.
        before: how many had been, by an earlier run.
        failed: a line about each scene that could not be done.
        damaged: how many tiles of the others could not be read.
    """

    counts: Counter[str]
    scenes: int
    before: int
    failed: list[str]
    damaged: int


def run(
    scenes: Sequence[Scene],
    make: Callable[[], Work],
    store: Store,
    *,
    engine: Callable[[Sequence[Scene], Task], Generator[Came]],
    overwrite: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Done:
    """Do the scenes that have not been done, and store what is found.

    Args:
        scenes: of a catalogue.
        make: makes, once a process, what finds the objects of a scene; it can be pickled.
        store: of results.
        engine: ``score.geo.engine.local`` or ``dask``, bound to its settings.
        overwrite: begin anew where the store holds results.
        say: takes a line about each scene.

    Raises:
        DataError: no scene could be done.
        OutputError: the store cannot be written, or holds results of other settings.
    """
    known = store.begin(overwrite)
    wanted = {scene.id: scene for scene in scenes}
    done = {key: item for key, item in known.items() if item.state == "done"}
    todo = [scene for scene in scenes if scene.id not in done or done[scene.id].href != scene.href]
    before, failed, begin = len(wanted) - len(todo), list[str](), time.monotonic()
    with contextlib.closing(engine(todo, Task(make, store))) as coming:
        for number, (scene, came) in enumerate(coming, start=1):
            if not isinstance(came, Entry):
                if isinstance(came, ScoreError) and not isinstance(came, DataError):
                    raise came  # the output, the model: no scene would fare better
                reason = " ".join(str(came).split())[:500] if isinstance(came, DataError) else f"{came!r}"[:500]
                came = Entry(scene.id, scene.href, "failed", reason=reason)
                failed.append(f"{scene.id}: {reason}")
            else:
                done[scene.id] = came
            store.note(came)
            left = (time.monotonic() - begin) / number * (len(todo) - number)
            say(f"{before + number} of {len(wanted)}: {_told(came)}; {timedelta(seconds=round(left))} left")
    kept = [item for key, item in done.items() if key in wanted]
    if not kept:
        raise DataError(failed[0] if len(failed) == 1 else f"none of {len(failed)} scenes could be done: {failed[0]}")
    counts = sum((Counter(item.objects) for item in kept), Counter[str]())
    return Done(counts, len(todo) - len(failed), before, failed, sum(item.damaged for item in kept))


def _told(came: Entry) -> str:
    if came.state == "failed":
        return f"{came.scene}: failed, {came.reason}"
    found = ", ".join(f"{count} {name}" for name, count in came.objects.items()) or "nothing"
    damaged = f", {came.damaged} tiles not readable" if came.damaged else ""
    return f"{came.scene}: {found}{damaged}, {came.seconds:.1f} s"
