"""A moving average of the weights, which is steadier than those of any one step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from score.model.score import SCORE


class MovingAverage:
    """The exponential moving average of what is trained, without the frozen towers; what it counts is copied.

    After step s, from 0 on, ``min(decay, (1 + s) / (10 + s))`` of the average stays, as in TensorFlow's
    ``ExponentialMovingAverage``: the first weights are soon forgotten.

    Args:
        model: whose weights it begins with.
        decay: 0 for the newest weights alone, to 1.
    """

    def __init__(self, model: SCORE, decay: float) -> None:
        self.model, self.decay = model, decay
        self.weights = {name: value.clone() for name, value in model.trainable_state().items()}

    def update(self, step: int) -> None:
        """Take in the model's weights after a step."""
        new = self.model.trainable_state()
        for name in new:
            if not new[name].is_floating_point():
                self.weights[name].copy_(new[name])
        floats = [name for name, value in new.items() if value.is_floating_point()]
        update = get_ema_multi_avg_fn(min(self.decay, (1 + step) / (10 + step)))
        update([self.weights[name] for name in floats], [new[name] for name in floats], step)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the average in place of the model's weights, which come back at the end."""
        own = {name: value.clone() for name, value in self.model.trainable_state().items()}
        self.model.load_trainable(self.weights)
        try:
            yield
        finally:
            self.model.load_trainable(own)

    def state_dict(self) -> dict[str, Tensor]:
        """The average, for a checkpoint."""
        return self.weights

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        for name, value in self.weights.items():
            value.copy_(state[name])
