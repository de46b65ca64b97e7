"""What must hold of a training config and its output folder before anything is computed or written."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf

from score.errors import ConfigError, OutputError
from score.files import check_writable
from score.weights import folder as model_folder


class Number(NamedTuple):
    """What a setting has to be: its kind, its bounds, and whether it may be null."""

    kind: type
    least: float
    most: float = math.inf
    optional: bool = False


SHARE = Number(float, 0, 1, optional=True)
NUMBERS = {  # of all commands; a name that two of them have means the same in both
    "seed": Number(int, 0),
    "optim.iterations": Number(int, 1),
    "optim.batch_size": Number(int, 1),
    "optim.lr": Number(float, 0),
    "optim.weight_decay": Number(float, 0),
    "optim.clip_norm": Number(float, 0),
    "optim.warmup": Number(int, 0),
    "optim.warmup_factor": Number(float, 0),
    "optim.checkpoint_period": Number(int, 1),
    "optim.checkpoints": Number(int, 1),
    "optim.eval_period": Number(int, 0),
    "optim.log_period": Number(int, 1),
    "runtime.gpus": Number(int, 1),
    "runtime.workers": Number(int, 0),
    "runtime.threads": Number(int, 1, optional=True),
    "evaluation.max_detections": Number(int, 1),
    "evaluation.pictures": Number(int, 0),
    "evaluation.limit": Number(int, 1, optional=True),
    "limit": Number(int, 1, optional=True),
    "max_detections": Number(int, 1),
    "pictures": Number(int, 0),
    "shuffle_vocabulary": Number(int, 0, optional=True),
    "min_score": Number(float, 0, 1),
    "background": SHARE,
    "resize.shortest": Number(int, 1, optional=True),
    "resize.longest": Number(int, 1, optional=True),
    "ensemble.alpha": SHARE,
    "ensemble.beta": SHARE,
}
PRODUCTS = ("checkpoints", "evaluation", "pictures", "metrics.json", *model_folder.FILES)


def check_numbers(config: DictConfig) -> None:
    """Refuse words, fractions and negative numbers where a count is needed; Hydra takes anything.

    Args:
        config: of any command; what it has of :data:`NUMBERS` is checked.

    Raises:
        ConfigError: naming the setting.
    """
    absent = object()
    for key, number in NUMBERS.items():
        value = OmegaConf.select(config, key, default=absent)
        if value is not absent:
            check_number(key, value, number)


def check_number(key: str, value: Any, number: Number) -> None:
    """Refuse a value that is not such a number.

    Raises:
        ConfigError: naming the setting.
    """
    if value is None and number.optional:
        return
    kinds = (int,) if number.kind is int else (int, float)
    if type(value) not in kinds or not number.least <= value <= number.most:
        what = "a whole number" if number.kind is int else "a number"
        bounds = f"of at least {number.least}" if number.most == math.inf else f"in {number.least} .. {number.most}"
        raise ConfigError(f"{key}={value}: not {what} {bounds}{', or null' if number.optional else ''}")


def check_processes(config: DictConfig, world_size: int) -> None:
    """Check that each process to be started has a GPU, unless CPUs are asked for, and an equal share of the batch.

    Args:
        config: the whole config.
        world_size: processes that run already, started by ``torchrun``.

    Raises:
        ConfigError: there is not.
    """
    gpus, batch = config.runtime.gpus, config.optim.batch_size
    if gpus > 1 and world_size > 1:
        raise ConfigError(f"runtime.gpus={gpus}: torchrun has started {world_size} processes; leave it out")
    if gpus > 1 and config.runtime.device != "cpu" and torch.cuda.device_count() < gpus:
        raise ConfigError(f"runtime.gpus={gpus}: {torch.cuda.device_count()} here; use as many as there are")
    processes = max(gpus, world_size)
    if batch % processes:
        raise ConfigError(f"optim.batch_size={batch}: not a multiple of {processes} processes; it counts all of them")


def check_output(output: Path, resume: bool | str, overwrite: bool) -> None:
    """Check that a run may write to a folder.

    Raises:
        ConfigError: ``resume`` is neither true, false nor ``auto``.
        OutputError: it cannot be written to, or holds another run.
    """
    if resume not in (True, False, "auto"):
        raise ConfigError(f"resume={resume}: it takes true, false or auto")
    if (output / model_folder.CONFIG).exists() and not (resume or overwrite):
        raise OutputError(
            f"{output} already holds a run; continue it with resume=true, replace it with overwrite=true, "
            "or choose another output=FOLDER"
        )
    check_writable(output)


def clear(output: Path) -> None:
    """Remove what a run writes, and nothing else."""
    for path in [*(output / name for name in PRODUCTS), *output.glob("events.out.tfevents.*")]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def precision(amp: str, device: torch.device) -> str:
    """``fp16``, ``bf16`` or ``off``, as ``runtime.amp`` says for a device.

    Raises:
        ConfigError: no such precision, or not on this device.
    """
    if amp == "auto":
        return "fp16" if device.type == "cuda" else "off"
    if amp not in ("fp16", "bf16", "off"):
        raise ConfigError(f"runtime.amp={amp}: no such precision; use auto, fp16, bf16 or off")
    if amp == "fp16" and device.type != "cuda":
        raise ConfigError(f"runtime.amp=fp16: needs a GPU, this is {device.type}; use bf16 or off")
    return amp
