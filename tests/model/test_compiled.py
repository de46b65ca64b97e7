"""Parts of the network through ``torch.compile``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch._dynamo.utils import counters

from score.model import compiled
from score.model.score import SCORE
from tests.model.test_score import PLACES, batch, build  # noqa: F401 - a fixture


@pytest.fixture
def _afresh() -> Iterator[None]:
    compiled.check_compiler.cache_clear()
    yield
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.usefixtures("_afresh")
def test_the_first_size_is_compiled_and_all_say_the_same(
    build: Callable[..., SCORE],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(compiled, "_share", lambda *_: 0.5)  # of what is as small as this it would be any
    plain, fast = (build("scene=backbone").eval() for _ in range(2))
    names = list(fast.state_dict())
    with caplog.at_level("INFO", "score"):
        fast.compile_parts(decoders=False)
        fast.look(batch((64, 64)))
    assert fast.compiled == {"backbone": 0.5}
    assert "compile: backbone takes 0.50 of the time" in caplog.text
    assert list(fast.state_dict()) == names
    graphs = counters["stats"]["unique_graphs"]
    assert graphs
    for sizes in ([(64, 64)], [(64, 96)], [(64, 64), (64, 64)]):
        expected, found = plain.look(batch(*sizes)), fast.look(batch(*sizes))
        torch.testing.assert_close(found[:3], expected[:3], rtol=1e-4, atol=1e-4)
    assert counters["stats"]["unique_graphs"] == graphs


@pytest.mark.parametrize(
    ("settings", "decoders", "parts"),
    [
        ((), True, ["backbone", "scene tower", "pixel decoder", "mask decoder"]),
        ((), False, ["backbone", "scene tower"]),
        (PLACES, True, ["backbone", "pixel decoder"]),
    ],
)
def test_what_is_no_faster_is_not_used(
    build: Callable[..., SCORE],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    settings: tuple[str, ...],
    decoders: bool,
    parts: list[str],
) -> None:
    ran = list[object]()
    monkeypatch.setattr(torch, "compile", lambda call, dynamic: lambda *args: ran.append(call) or call(*args))
    monkeypatch.setattr("score.model.score.check_compiler", lambda device: None)
    monkeypatch.setattr(compiled, "_share", lambda *_: 1.25)
    model = build(*settings).eval()
    model.compile_parts(decoders=decoders)
    for _ in range(2):
        model.look(batch((64, 64)))
    assert model.compiled == dict.fromkeys(parts, 1.25)
    assert len(ran) == len(parts)


def test_times_are_compared() -> None:
    long, short = (lambda count=count: torch.ones(count).sin() for count in (3_000_000, 300))
    assert compiled._share(short, long) < 1 < compiled._share(long, short)
