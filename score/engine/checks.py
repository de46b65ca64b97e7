"""What must hold of a training config and its output folder before anything is computed or written."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from score.errors import ConfigError, OutputError
from score.files import check_writable
from score.weights import folder as model_folder

NUMBERS: dict[str, tuple[type, float]] = {  # kind and least value
    "seed": (int, 0),
    "optim.iterations": (int, 1),
    "optim.batch_size": (int, 1),
    "optim.lr": (float, 0),
    "optim.weight_decay": (float, 0),
    "optim.clip_norm": (float, 0),
    "optim.warmup": (int, 0),
    "optim.warmup_factor": (float, 0),
    "optim.checkpoint_period": (int, 1),
    "optim.checkpoints": (int, 1),
    "optim.eval_period": (int, 0),
    "optim.log_period": (int, 1),
    "runtime.gpus": (int, 1),
    "runtime.workers": (int, 0),
    "evaluation.max_detections": (int, 1),
    "evaluation.pictures": (int, 0),
}
PRODUCTS = ("checkpoints", "evaluation", "pictures", "metrics.json", *model_folder.FILES)


def check_numbers(config: DictConfig) -> None:
    """Refuse words, fractions and negative numbers where a count is needed; Hydra takes anything.

    Raises:
        ConfigError: naming the setting.
    """
    for key, (kind, least) in NUMBERS.items():
        value = OmegaConf.select(config, key)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not (whole or (kind is float and isinstance(value, float))) or value < least:
            what = "a whole number" if kind is int else "a number"
            raise ConfigError(f"{key}={value}: not {what} of at least {least}")


def check_processes(config: DictConfig, world_size: int) -> None:
    """Check that there is a GPU for each process to be started, and an equal share of the batch for each.

    Args:
        config: the whole config.
        world_size: processes that run already, started by ``torchrun``.

    Raises:
        ConfigError: there is not.
    """
    gpus, batch = config.runtime.gpus, config.optim.batch_size
    if gpus > 1 and torch.cuda.device_count() < gpus:
        raise ConfigError(f"runtime.gpus={gpus}: {torch.cuda.device_count()} here; use as many as there are")
    processes = max(gpus, world_size)
    if batch % processes:
        raise ConfigError(f"optim.batch_size={batch}: not a multiple of {processes} processes; it counts all of them")


def check_output(output: Path, resume: bool, overwrite: bool) -> None:
    """Check that a run may write to a folder.

    Raises:
        OutputError: it cannot be written to, or holds another run.
    """
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
