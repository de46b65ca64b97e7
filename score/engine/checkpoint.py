"""Checkpoints of a run: what is trained, the optimiser and the iteration; frozen towers stay out."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from fvcore.common.checkpoint import Checkpointer

from score.errors import WeightsError
from score.files import write_whole
from score.model.score import SCORE

LAST = "last_checkpoint"  # holds the name of the newest file, as detectron2 has it


class RunCheckpointer(Checkpointer):
    """detectron2's checkpointer for a model with ``trainable_state``: whole files only, however a run ends.

    Args:
        model: a :class:`SCORE`.
        save_dir: where ``model_0001999.pth`` and ``last_checkpoint`` go.
        save_to_disk: false on all processes but the main one.
        checkpointables: objects with ``state_dict``, each saved under its keyword.
    """

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``<name>.pth`` and name it the last one.

        Raises:
            OutputError: no space, or no right to write.
        """
        if not self.save_to_disk:
            return
        data = {"model": self.model.trainable_state()}
        data.update({key: item.state_dict() for key, item in self.checkpointables.items()}, **kwargs)
        path = Path(self.save_dir) / f"{name}.pth"
        write_whole(path, lambda partial: torch.save(data, partial))
        self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name the newest file, once it is whole."""
        write_whole(Path(self.save_dir) / LAST, lambda partial: partial.write_text(last_filename_basename))


def has_checkpoint(folder: Path) -> bool:
    """Whether a run has left one there."""
    return (folder / LAST).exists()


def read_last(folder: Path) -> dict[str, Any]:
    """Read the newest checkpoint of a run, onto the CPU.

    Returns:
        ``model``, ``trainer``, ``iteration`` (the last one done).

    Raises:
        WeightsError: there is none, or it is damaged.
    """
    if not has_checkpoint(folder):
        raise WeightsError(f"nothing to resume: no checkpoint in {folder}; leave resume=true out to start a new run")
    path = folder / (folder / LAST).read_text().strip()
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"cannot read {path} ({str(error).splitlines()[0]}); name an older file in {LAST}"
        ) from error


def restore(state: Mapping[str, Any], model: SCORE, trainer: SimpleTrainer) -> None:
    """Put a checkpoint back; rate and decay stay as the optimiser has them, for a config may change between two runs.

    Raises:
        WeightsError: the checkpoint is of another architecture.
    """
    model.load_trainable(state["model"])
    optimiser = trainer.optimizer
    settings = [(group["lr"], group["weight_decay"]) for group in optimiser.param_groups]
    try:
        trainer.load_state_dict(state["trainer"])
    except (ValueError, KeyError) as error:
        raise WeightsError(f"the checkpoint's optimiser is of another run ({error}); start a new run") from error
    for group, (rate, decay) in zip(optimiser.param_groups, settings, strict=True):
        group.update(lr=rate, initial_lr=rate, weight_decay=decay)
