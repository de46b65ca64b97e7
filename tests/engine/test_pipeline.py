"""The next batch is in the network while the last one is finished."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from torch import nn

from score.engine.pipeline import overlapped


def batches(count: int) -> Iterator[list[dict[str, Any]]]:
    yield from ([{"image_id": index}] for index in range(count))


def test_batches_come_out_in_order_with_what_became_of_them() -> None:
    found = overlapped(nn.Identity(), batches(4), lambda inputs: inputs[0]["image_id"] * 10, lambda _, value: value + 1)
    assert [(inputs[0]["image_id"], result) for inputs, result in found] == [(i, i * 10 + 1) for i in range(4)]


def test_the_network_has_the_next_batch_before_the_last_is_finished() -> None:
    second = threading.Event()

    def network(inputs: list[dict[str, Any]]) -> int:
        if inputs[0]["image_id"] == 1:
            second.set()
        return inputs[0]["image_id"]

    def finish(inputs: list[dict[str, Any]], value: int) -> bool:
        return second.wait(timeout=60)  # would never come if the batches ran one after another

    assert all(result for _, result in overlapped(nn.Identity(), batches(2), network, finish))


def test_the_model_is_in_evaluation_meanwhile_and_as_before_afterwards() -> None:
    model = nn.Linear(2, 2).train()
    found = overlapped(model, batches(2), lambda _: model.training, lambda _, training: training or model.training)
    assert [result for _, result in found] == [False, False]
    assert model.training


def test_what_goes_wrong_in_either_is_raised() -> None:
    def fail(*_: object) -> None:
        raise ValueError("no")

    for network, finish in ((fail, lambda *_: None), (lambda _: None, fail)):
        with pytest.raises(ValueError, match="no"):
            list(overlapped(nn.Identity(), batches(2), network, finish))
