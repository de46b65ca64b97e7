"""Stages of the network by name, for whoever measures them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch

OBSERVERS: list[Callable[[str], AbstractContextManager]] = []  # each is entered with the name of every stage that runs


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Name a stage of the network; PyTorch's profiler reports its time under ``score: name``."""
    with ExitStack() as stack:
        stack.enter_context(torch.profiler.record_function(f"score: {name}"))
        for observer in OBSERVERS:
            stack.enter_context(observer(name))
        yield
