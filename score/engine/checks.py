"""What must hold of a training config and its output folder before anything is computed or written."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from fvcore.common.param_scheduler import ParamScheduler
from omegaconf import DictConfig, ListConfig, OmegaConf

from score.errors import ConfigError, OutputError
from score.files import check_writable
from score.weights import folder as model_folder


class Number(NamedTuple):
    """What a setting has to be: its kind, its bounds, whether it may be null or a list of such, or is two in order."""

    kind: type
    least: float
    most: float = math.inf
    optional: bool = False
    many: bool = False
    pair: bool = False


COUNT, FROM_0, POSITIVE, SHARE = Number(int, 1), Number(int, 0), Number(float, 0), Number(float, 0, 1)
MAYBE_COUNT, MAYBE_SHARE = COUNT._replace(optional=True), SHARE._replace(optional=True)
_KEYS = {  # of all commands; a name that two of them have means the same in both
    COUNT: """optim.iterations optim.batch_size optim.checkpoint_period optim.checkpoints optim.log_period runtime.gpus
        input.train.size input.test.shortest input.test.longest max_detections evaluation.max_detections top_k
        regions.longest learn.hidden_dim learn.steps learn.batch_size batch_size evaluation.batch_size
        min_pixels""",
    MAYBE_COUNT: """limit evaluation.limit resize.shortest resize.longest input.train.max_instances
        regions.per_class tile tile_size_px""",
    Number(int, 1, 1024, optional=True): "runtime.threads workers",
    Number(int, 0, 1024): "runtime.workers",
    FROM_0: """seed input.train.seed pictures evaluation.pictures optim.warmup optim.eval_period input.train.image_pad
        regions.views regions.crowds learn.warmup zoom""",
    FROM_0._replace(optional=True): "shuffle_vocabulary tile_overlap overlap_px",
    POSITIVE._replace(optional=True): "gsd_m tile_m tolerance_m",
    Number(float, -math.inf, optional=True): "nodata",
    POSITIVE: """optim.lr optim.weight_decay optim.clip_norm optim.warmup_factor min_area min_area_m2 learn.lr
        learn.weight_decay learn.temperature regions.around""",
    Number(float, 0.01, 10, pair=True): "input.train.scale regions.scale",
    SHARE: """min_score overlap false_alarms input.train.flip input.train.colour learn.dropout learn.balance
        regions.colour regions.boxes learn.others""",
    MAYBE_SHARE: "score val background ensemble.alpha ensemble.beta optim.ema",
    SHARE._replace(many=True): "alphas betas",
}
NUMBERS = {key: number for number, keys in _KEYS.items() for key in keys.split()}
PRODUCTS = ("checkpoints", "evaluation", "pictures", "metrics.json", model_folder.CALIBRATION, *model_folder.FILES)
STUDIES = ("benchmark", "sweep", "predictions")


def check_numbers(config: DictConfig, **own: Number) -> None:
    """Refuse words, fractions and negative numbers where a count is needed; Hydra takes anything.

    Args:
        config: of any command; what it has of :data:`NUMBERS` is checked.
        own: what the command takes that others do not.

    Raises:
        ConfigError: naming the setting.
    """
    absent = object()
    for key, number in {**NUMBERS, **own}.items():
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
    several = (number.many or number.pair) and isinstance(value, list | ListConfig)
    values = list(value) if several else [value]
    fit = bool(values) and all(
        type(item) in kinds and math.isfinite(item) and number.least <= item <= number.most for item in values
    )
    if not fit or (number.pair and (len(values) != 2 or values[0] > values[1])):
        what = "a whole number" if number.kind is int else "two numbers" if number.pair else "a number"
        bounds = f"of at least {number.least}" if number.most == math.inf else f"in {number.least} .. {number.most}"
        more = ", or null" * number.optional + ", or a list of such" * number.many + ", in order" * number.pair
        raise ConfigError(f"{key}={value}: not {what} {bounds}{more}")


def check_processes(config: DictConfig, world_size: int) -> None:
    """Check that each process to be started has a GPU, unless CPUs are asked for, and an equal share of the batch.

    Args:
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


def decay(schedule: Any) -> ParamScheduler:
    """Check that a learning rate's course is one, and at no time negative or infinite.

    Raises:
        ConfigError: it is not.
    """
    try:
        fit = all(0 <= schedule(step / 16) < math.inf for step in range(17))
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ConfigError(f"optim.decay: no course of a learning rate ({' '.join(str(error).split())})") from error
    if not fit:
        raise ConfigError("optim.decay: not at all times a number of at least 0")
    return schedule  # type: ignore[no-any-return]


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
    """Remove what a run and studies of it write, and nothing else."""
    for path in [*(output / name for name in PRODUCTS + STUDIES), *output.glob("events.out.tfevents.*")]:
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
