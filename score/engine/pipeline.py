"""Batches through a model, what follows the network overlapped with the next batch's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from detectron2.evaluation import inference_context
from torch import nn

Batch = list[dict[str, Any]]
T = TypeVar("T")
R = TypeVar("R")


def overlapped(
    model: nn.Module, batches: Iterable[Batch], network: Callable[[Batch], T], finish: Callable[[Batch, T], R]
) -> Iterator[tuple[Batch, R]]:
    """Each batch with what became of it, in order.

    Args:
        model: in evaluation mode meanwhile.
        batches: such as a loader's; the next one is asked for once the last is through the network.
        network: runs in this thread, on one batch after another.
        finish: the rest, such as making run lengths of masks; runs in another thread, on one batch after another.
    """
    with inference_context(model), ThreadPoolExecutor(1) as pool:
        before: tuple[Batch, Future[R]] | None = None
        for inputs in batches:
            found = network(inputs)
            if before:
                yield before[0], before[1].result()
            before = inputs, pool.submit(finish, inputs, found)
        if before:
            yield before[0], before[1].result()
