"""Position codes and cell centres, against their formula."""

from __future__ import annotations

import math

import pytest
import torch

from score.model.position import cell_centres, sine_positions


def code(position: float, length: int, column: int, half: int) -> float:
    """One entry of DETR's sine code: ``position`` from 1, scaled to 2 pi over ``length``."""
    angle = position / length * 2 * math.pi / 10000 ** (2 * (column // 2) / half)
    return math.sin(angle) if column % 2 == 0 else math.cos(angle)


def test_codes_are_the_sines_of_their_places() -> None:
    height, width, half = 3, 4, 6
    codes = sine_positions(height, width, 2 * half)
    assert codes.shape == (height * width, 2 * half) and codes.dtype == torch.float32
    expected = [
        [code(y + 1, height, c, half) for c in range(half)] + [code(x + 1, width, c, half) for c in range(half)]
        for y in range(height)
        for x in range(width)
    ]
    torch.testing.assert_close(codes, torch.tensor(expected), rtol=0, atol=5e-6)


def test_centres_are_x_then_y_row_by_row() -> None:
    expected = [[(x + 0.5) / 5, (y + 0.5) / 2] for y in range(2) for x in range(5)]
    torch.testing.assert_close(cell_centres(2, 5), torch.tensor(expected))


@pytest.mark.parametrize("temperature", [10000.0, 20.0])
def test_the_temperature_sets_the_slowest_wave(temperature: float) -> None:
    slowest = sine_positions(1, 1, 16, temperature=temperature)[0, 6]  # the last sine of y
    torch.testing.assert_close(slowest, torch.tensor(2 * math.pi / temperature**0.75).sin())
