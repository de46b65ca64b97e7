"""Start a training run from weights that fit in part: SCORE, FC-CLIP or Mask2Former checkpoints, or a model folder."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from torch import Tensor

from score.errors import WeightsError
from score.model.score import SCORE
from score.weights import folder
from score.weights import released as authors


def initialise(model: SCORE, source: Path) -> str:
    """Copy what fits by name and shape into a model; the rest stays as it is.

    Args:
        source: a checkpoint as :func:`score.weights.released.read_checkpoint` reads it, or a model folder.

    Returns:
        What was used, left and not found, in lines.

    Raises:
        WeightsError: it cannot be read, holds an unknown name, or nothing of it fits.
    """
    state, left = _read(source)
    own = model.trainable_state()
    used: dict[str, Tensor] = {}
    for name, value in state.items():
        if name not in own:
            left[f"{_part(name)}: not in this model"] += 1
        elif value.shape != own[name].shape:
            left[f"{_part(name)}: another shape, {tuple(value.shape)} for {tuple(own[name].shape)}"] += 1
        elif name not in authors.UNSAVED:
            used[name] = value.to(own[name].dtype)
    if not used:
        raise WeightsError(f"init={source}: nothing of it fits this model; leave init out, or choose its architecture")
    model.load_trainable({**own, **used})
    numbers = sum(value.numel() for value in used.values())
    random = Counter(_part(name) for name in own if name not in used and name not in authors.UNSAVED)
    lines = [f"{source}: {len(used)} tensors used, {numbers:,} parameters"]
    lines += [f"  left {count:4d}  {reason}" for reason, count in left.items()]
    lines += [f"  new  {count:4d}  {part}: as initialised" for part, count in random.items()]
    return "\n".join(lines)


def _read(source: Path) -> tuple[dict[str, Tensor], Counter[str]]:
    """Tensors under our names, and the reasons for which others were left, with their counts."""
    if source.is_dir():
        return folder.read_weights(source / folder.WEIGHTS), Counter()
    conversion = authors.convert(authors.read_checkpoint(source))
    return conversion.state, Counter(conversion.left.values())


def _part(name: str) -> str:
    """The part of the model that a parameter belongs to, as ``mask_decoder.layers`` or ``gca``."""
    return ".".join(re.split(r"\.(?=\d|weight|bias)", name)[0].split(".")[:2])
