"""What a run stands on: device, threads, processes, seeds, log, versions."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import random
import socket
import sys
from collections.abc import Callable
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from detectron2.utils import comm

from score import DISTRIBUTION, __version__
from score.errors import ConfigError
from score.files import sha256
from score.weights.folder import WEIGHTS

PACKAGES = ("torch", "torchvision", "detectron2", "numpy", "timm", "open_clip_torch", "hotcoco")


def select_device(name: str = "auto", threads: int | None = None) -> torch.device:
    """Choose where to compute, and on how many threads of the CPU (None for PyTorch's own choice).

    Args:
        name: ``cpu``, ``cuda``, ``cuda:1``, or ``auto`` for a GPU where there is one.

    Raises:
        ConfigError: there is no such device, or processes were started that have not joined.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count > 1 and comm.get_world_size() == 1:  # all would do the same, over the same files
        raise ConfigError(f"torchrun has started {count} processes of a command that is run by one; start it without")
    if threads is not None:
        torch.set_num_threads(threads)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{_local_rank()}"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"runtime.device={name}: not on this machine; use auto, cpu or cuda") from error
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def join_processes(device: str = "auto") -> None:
    """Join the other processes that ``torchrun`` or :func:`start_processes` started, if there are any.

    Args:
        device: as :func:`select_device` has it.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or torch.distributed.is_initialized():
        return
    cuda = device != "cpu" and torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(_local_rank())
    # The main process computes figures while the others wait, hours for a large dataset.
    torch.distributed.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(hours=6))
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))


def part_processes() -> bool:
    """End what processes do in common: true in the main one, which goes on alone, and false in all others."""
    main = comm.is_main_process()
    if comm.get_world_size() > 1:
        comm.synchronize()
        torch.distributed.destroy_process_group()
    return main


def start_processes(count: int, device: str, function: Callable[..., None], *arguments: Any) -> None:
    """Run a function in so many new processes on this machine, which have joined, and wait for all of them."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    torch.multiprocessing.start_processes(_started, (count, port, device, function, *arguments), count)


def _started(rank: int, count: int, port: int, device: str, function: Callable[..., None], *arguments: Any) -> None:
    os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": f"{count}", "LOCAL_WORLD_SIZE": f"{count}"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
    join_processes(device)
    function(*arguments)


def _local_rank() -> int:
    """Of this process among those on this machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def seed_everything(*seed: int) -> None:
    """Seed Python, NumPy and PyTorch, each process its own way, from one or several whole numbers >= 0."""
    value = int(np.random.SeedSequence([*seed, comm.get_rank()]).generate_state(1)[0])
    random.seed(value)
    np.random.seed(value)  # noqa: NPY002, detectron2's augmentations draw from it
    torch.manual_seed(value)


class _Stdout(logging.StreamHandler):
    """Writes to what ``sys.stdout`` is at the time, as plain lines."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stdout


def log_to_stdout() -> None:
    """Show what ``score`` reports as plain lines; of several processes only the main one speaks."""
    ours = logging.getLogger("score")
    ours.setLevel(logging.INFO if comm.is_main_process() else logging.ERROR)
    if not any(isinstance(handler, _Stdout) for handler in ours.handlers):
        ours.addHandler(_Stdout())
    # It would print the traceback of what is raised, and raised again, on its way to one line of error.
    logging.getLogger("detectron2.engine.train_loop").setLevel(logging.CRITICAL + 1)


def provenance(folder: Path, device: torch.device, seed: Any, command: str) -> dict[str, Any]:
    """What figures of a model come from, to be kept beside them.

    Args:
        folder: the model folder.
        device: where it ran.
        seed: it was trained with.
        command: as typed.
    """
    weights = sha256(folder / WEIGHTS)
    return {
        "model": str(folder), "weights": weights, "seed": seed, "command": command, "device": str(device),
        "threads": torch.get_num_threads(), "versions": versions(),
    }  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of what decides its figures, and the GPU if there is one."""
    found = {"python": platform.python_version(), DISTRIBUTION: __version__}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found
