"""Checkpoints of a run: what is trained, the optimiser and the iteration; frozen towers stay out."""

from __future__ import annotations

import logging
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from fvcore.common.checkpoint import Checkpointer

from score.errors import ConfigError, WeightsError
from score.files import write_text, write_whole
from score.model.score import SCORE

logger = logging.getLogger(__name__)
LAST = "last_checkpoint"  # holds the name of the newest file, as detectron2 has it
FINAL = "model_final.pth"


class RunCheckpointer(Checkpointer):
    """detectron2's checkpointer for a model with ``trainable_state``: whole files only, however a run ends.

    Args:
        save_dir: where ``model_0001999.pth`` and ``last_checkpoint`` go.
        keep: so many of them stay, beside ``model_final.pth``, whatever run wrote them.
        facts: kept in each, for :func:`check_same`.
        save_to_disk: false on all processes but the main one.
        checkpointables: objects with ``state_dict``, each saved under its keyword.
    """

    def __init__(
        self, model: SCORE, save_dir: str, *, keep: int = 2, facts: Mapping[str, Any] | None = None, **rest: Any
    ) -> None:
        super().__init__(model, save_dir, **rest)
        self.keep, self.facts = keep, dict(facts or {})

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``<name>.pth``, name it the last one, and remove older ones and those of a course that was left.

        Raises:
            OutputError: no space, or no right to write.
        """
        if not self.save_to_disk:
            return
        data = {"model": self.model.trainable_state(), "facts": self.facts}
        data.update({key: item.state_dict() for key, item in self.checkpointables.items()}, **kwargs)
        folder, newest = Path(self.save_dir), f"{name}.pth"
        write_whole(folder / newest, lambda partial: torch.save(data, partial))
        write_text(folder / LAST, newest)
        numbered = _numbered(folder)
        kept = {newest, *[name for name in numbered if name <= newest][: self.keep]}
        killed = {path.name for path in folder.glob(".*.pth.*")}  # half-written by a process that could not clear up
        for name in {*numbered, FINAL, *killed} - kept:
            (folder / name).unlink(missing_ok=True)


def _numbered(folder: Path) -> list[str]:
    """Names of the checkpoints made on the way, newest first."""
    return sorted((path.name for path in folder.glob("model_[0-9]*.pth")), reverse=True)


def has_checkpoint(folder: Path) -> bool:
    """Whether a run has left one there."""
    return (folder / LAST).exists()


def read_last(folder: Path) -> dict[str, Any]:
    """Read the newest whole checkpoint of a run, onto the CPU; a damaged one is named in a warning.

    Returns:
        ``model``, ``trainer``, ``facts``, ``iteration`` (the last one done), and ``average`` of a run that has one.

    Raises:
        WeightsError: there is none, or all are damaged.
    """
    if not has_checkpoint(folder):
        raise WeightsError(f"nothing to resume: no checkpoint in {folder}; leave resume=true out to start a new run")
    last = (folder / LAST).read_text(encoding="utf-8", errors="replace").strip()
    for name in dict.fromkeys([last, *(name for name in _numbered(folder) if name < last)]):
        if (state := _read(folder / name)) is not None:
            return state
    raise WeightsError(f"cannot read {folder / last} or any older one; start a new run with overwrite=true")


def _read(path: Path) -> dict[str, Any] | None:
    """One checkpoint, None with a warning if damaged: a zip archive, whose sums ``torch.load`` does not compare."""
    try:
        with zipfile.ZipFile(path) as archive:
            if name := archive.testzip():
                raise zipfile.BadZipFile(f"{name} in it has another CRC-32")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError, zipfile.error) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        logger.warning(f"cannot read {path} ({reason}); is it damaged? Trying the one before")
        return None
    return state


def check_same(state: Mapping[str, Any], facts: Mapping[str, Any], folder: Path) -> None:
    """Make sure that a run goes on as what it was; a checkpoint from before facts were kept is taken at its word.

    Args:
        facts: setting to what it is now, in words.

    Raises:
        ConfigError: naming every setting that differs.
    """
    had = state.get("facts", {})
    differ = [f"{key} is {now}, had been {had[key]}" for key, now in facts.items() if had.get(key, now) != now]
    if differ:
        raise ConfigError(f"{folder} cannot go on: {'; '.join(differ)}; set it back, or replace it by overwrite=true")


def restore(state: Mapping[str, Any], model: SCORE, trainer: SimpleTrainer) -> None:
    """Put a checkpoint back; rate and decay stay as the optimiser has them, for a config may change between two runs.

    So may the precision: a loss scale is taken over where both have one.

    Raises:
        WeightsError: the checkpoint is of another architecture.
    """
    model.load_trainable(state["model"])
    optimiser = trainer.optimizer
    settings = [(group["lr"], group["weight_decay"]) for group in optimiser.param_groups]
    scaler = {key: value for key, value in trainer.state_dict().items() if key == "grad_scaler"}
    try:
        trainer.load_state_dict({**scaler, **state["trainer"]})
    except (ValueError, KeyError) as error:
        raise WeightsError(f"the checkpoint's optimiser is of another run ({error}); start a new run") from error
    for group, (rate, decay) in zip(optimiser.param_groups, settings, strict=True):
        group.update(lr=rate, initial_lr=rate, weight_decay=decay)
