"""What a run stands on: device, threads, processes, seeds, log, versions."""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import platform
import random
import signal
import socket
import sys
import time
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

logger = logging.getLogger(__name__)
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
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ConfigError(f"runtime.device={name}: not on this machine; use auto, cpu or cuda") from error
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def tower_precision(asked: str | None, device: torch.device) -> torch.dtype | None:
    """What frozen towers compute in, None for what they were built in; what is trained keeps its own precision.

    Args:
        asked: None, ``bf16``, ``fp16``, or ``auto``: 16 bits on a GPU, and on a CPU that multiplies faster in bfloat16,
            which a short trial says: not all that have the instructions do.

    Raises:
        ConfigError: no such precision, or not on this device.
    """
    if asked not in (None, "auto", "bf16", "fp16"):
        raise ConfigError(f"runtime.towers={asked}: no such precision; use auto, bf16, fp16 or null")
    if asked == "fp16" and device.type != "cuda":
        raise ConfigError(f"runtime.towers=fp16: needs a GPU, this is {device.type}; use auto, bf16 or null")
    if asked != "auto":
        return {None: None, "bf16": torch.bfloat16, "fp16": torch.float16}[asked]
    if device.type == "cuda":
        chosen = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
        logger.info(f"towers in {chosen}".replace("torch.", ""))
        return chosen
    share = _bf16_share()
    chosen = torch.bfloat16 if share < WORTH else None
    logger.info(f"towers in {'bfloat16' if chosen else 'float32'}: a product in bfloat16 takes {share:.2f} of the time")
    return chosen


WORTH = 0.8  # of the time in fp32: above it, 16 bits would lose digits for little


@functools.cache
def _bf16_share() -> float:
    """The time of a product as towers have them in bfloat16, as a share of that in fp32, on this CPU."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        x, weight = torch.ones(256, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
        trials = []
        for _ in range(6):
            start = time.perf_counter()
            torch.nn.functional.linear(x, weight)
            trials.append(time.perf_counter() - start)
        seconds[dtype] = min(trials)
    return seconds[torch.bfloat16] / seconds[torch.float32]


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
    atexit.register(_leave_group)
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))


def part_processes() -> bool:
    """End what processes do in common: true in the main one, which goes on alone, and false in all others."""
    main = comm.is_main_process()
    if comm.get_world_size() > 1:
        comm.synchronize()
        _leave_group()
    return main


def _leave_group() -> None:
    """End the group and its threads, for one that frees a tensor while Python shuts down aborts the process."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    comm._get_global_gloo_group.cache_clear()  # detectron2's references, which would keep the threads alive
    comm._LOCAL_PROCESS_GROUP = None


def start_processes(count: int, device: str, function: Callable[..., None], *arguments: Any) -> None:
    """Run a function in so many new processes on this machine, which have joined, and wait for all of them."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    started = torch.multiprocessing.start_processes(
        _started, (count, port, device, function, *arguments), count, join=False
    )
    try:
        while not started.join():
            pass
    except KeyboardInterrupt:  # of this process alone, maybe: the others would go on, and Python would wait for them
        for process in started.processes:
            if process.is_alive():
                os.kill(process.pid, signal.SIGINT)
        for process in started.processes:
            process.join(30)
            process.kill()
        raise


def _started(rank: int, count: int, port: int, device: str, function: Callable[..., None], *arguments: Any) -> None:
    signal.signal(signal.SIGINT, _interrupt_once)
    os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": f"{count}", "LOCAL_WORLD_SIZE": f"{count}"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
    join_processes(device)
    function(*arguments)
    part_processes()


def _interrupt_once(number: int, frame: object) -> None:
    """Take the first of two interrupts, the terminal's and that of the process which started this one."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


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
