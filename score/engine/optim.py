"""AdamW with whole-model gradient clipping, parameter groups without decay, and the learning rate's course."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from detectron2.solver.lr_scheduler import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler, ParamScheduler
from torch import nn

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)


class ClippedAdamW(torch.optim.AdamW):
    """AdamW that scales all gradients together so that their norm is at most ``clip_norm``, 0 for no clipping.

    Clipping stands inside ``step``: under mixed precision the gradient scaler has by then divided its factor out.
    """

    def __init__(self, params: Iterable[dict[str, Any]], *, lr: float, clip_norm: float) -> None:
        super().__init__(params, lr=lr, fused=True)
        self._step_supports_amp_scaling = False  # the scaler is to divide before the clipping, not after it
        self.clip_norm = clip_norm

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Clip and update."""
        if self.clip_norm > 0:
            parameters = [parameter for group in self.param_groups for parameter in group["params"]]
            nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        return super().step(closure)


def parameter_groups(model: nn.Module, weight_decay: float, no_decay: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Split what is trainable into two groups: with weight decay, and without.

    Args:
        model: parameters with ``requires_grad=False`` are left out.
        weight_decay: of the first group; norms and embeddings form the second.
        no_decay: names of lone parameters that are embeddings too, without the name of their module.

    Returns:
        Groups for an optimiser, each trainable parameter in exactly one of them; an empty group is left out.
    """
    decayed: dict[nn.Parameter, None] = {}  # ordered sets: a shared parameter counts once
    kept: dict[nn.Parameter, None] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                free = isinstance(module, (*NORMS, nn.Embedding)) or name in no_decay
                (kept if free else decayed).setdefault(parameter)
    for parameter in kept:
        decayed.pop(parameter, None)
    groups = [
        {"params": list(decayed), "weight_decay": weight_decay},
        {"params": list(kept), "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def multistep(*, iterations: int, steps: Sequence[int], gamma: float) -> ParamScheduler:
    """Multiply by ``gamma`` at each of ``steps``; those after the last iteration never come. No steps: constant."""
    reached = sorted(step for step in steps if 0 < step < iterations)
    return MultiStepParamScheduler(
        values=[gamma**power for power in range(len(reached) + 1)], num_updates=iterations, milestones=reached
    )


def warmed_up(decay: ParamScheduler, *, iterations: int, warmup: int, factor: float) -> ParamScheduler:
    """Put a linear rise from ``factor`` over the first ``warmup`` iterations before ``decay``, a schedule on [0, 1]."""
    if not 0 < warmup < iterations:
        return decay
    return WarmupParamScheduler(decay, warmup_factor=factor, warmup_length=warmup / iterations)
