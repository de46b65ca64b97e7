from __future__ import annotations

import pytest
import torch

from score.engine.average import MovingAverage
from score.model.score import SCORE
from tests.tiny_model import tiny_model


@pytest.fixture
def model() -> SCORE:
    return tiny_model(["ship"])[0]


def change(model: SCORE, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Move all that is trained, and count one call; a copy of the outcome."""
    for name, value in model.trainable_state().items():
        if value.is_floating_point():
            value += torch.randn(value.shape, generator=generator)
        else:
            assert name == "rai.calls"
            value += 1
    return {name: value.clone() for name, value in model.trainable_state().items()}


@pytest.mark.parametrize(("decay", "shares"), [(0.998, [1 / 10, 2 / 11, 3 / 12]), (0.15, [1 / 10, 0.15, 0.15])])
def test_the_average_follows_its_formula_and_counters_are_copied(
    model: SCORE, decay: float, shares: list[float]
) -> None:
    average, generator = MovingAverage(model, decay), torch.Generator().manual_seed(0)
    expected = {name: value.double() for name, value in model.trainable_state().items()}
    for step, share in enumerate(shares):
        new = change(model, generator)
        average.update(step)
        expected = {name: share * value + (1 - share) * new[name] for name, value in expected.items()}
    found = average.state_dict()
    assert int(found.pop("rai.calls")) == 3
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name].float(), msg=name)


def test_no_decay_is_the_newest_weights(model: SCORE) -> None:
    average = MovingAverage(model, 0)
    new = change(model, torch.Generator().manual_seed(1))
    average.update(7)
    for name, value in average.state_dict().items():
        assert torch.equal(value, new[name]), name


def test_the_models_own_weights_come_back_even_after_an_error(model: SCORE) -> None:
    average = MovingAverage(model, 0.9)
    first = {name: value.clone() for name, value in model.trainable_state().items()}
    own = change(model, torch.Generator().manual_seed(2))
    with pytest.raises(KeyError), average.in_place():
        assert all(torch.equal(value, first[name]) for name, value in model.trainable_state().items())
        raise KeyError
    assert all(torch.equal(value, own[name]) for name, value in model.trainable_state().items())


def test_what_is_saved_goes_on_alike(model: SCORE) -> None:
    one, two = MovingAverage(model, 0.9), MovingAverage(model, 0.9)
    generator = torch.Generator().manual_seed(3)
    change(model, generator)
    one.update(0)
    two.load_state_dict({name: value.clone() for name, value in one.state_dict().items()})
    change(model, generator)
    one.update(1)
    two.update(1)
    assert all(torch.equal(value, two.weights[name]) for name, value in one.weights.items())
