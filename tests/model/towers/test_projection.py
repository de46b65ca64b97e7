"""The lite tower's learned part: what it computes, and what of it is kept in half precision."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from score.model.towers.projection import Projection, load_projection


def projection(**options: float) -> Projection:
    torch.manual_seed(0)
    made = Projection(6, hidden_dim=8, embed_dim=4, **options)
    for name, buffer in made.named_buffers():
        buffer.add_(torch.rand(buffer.shape) * (0.5 if name != "scale" else 0))
    return made


def test_standardises_then_two_layers_with_gelu() -> None:
    made, pooled = projection(), torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(1))
    x = (pooled - made.mean) / made.std
    x = x @ made.hidden.weight.T + made.hidden.bias
    x = 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
    torch.testing.assert_close(made(pooled), x @ made.out.weight.T + made.out.bias)


def test_text_is_normalised_and_rid_of_what_all_sentences_share() -> None:
    made, embeds = projection(), torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(made.text(embeds), F.normalize(embeds, dim=-1) - made.text_mean)


def test_drops_out_in_training_only() -> None:
    made, pooled = projection(dropout=0.5), torch.ones(1, 6)
    assert not torch.equal(made.train()(pooled), made(pooled))
    assert torch.equal(made.eval()(pooled), made(pooled))
    torch.testing.assert_close(made(pooled), projection()(pooled))


def test_starts_neutral() -> None:
    made = Projection(3, hidden_dim=2, embed_dim=2)
    assert made.mean.tolist() == [0] * 3 and made.std.tolist() == [1] * 3 and made.text_mean.tolist() == [0] * 2
    assert float(made.scale) == 30.0
    assert Projection(3).hidden.out_features == 512 and Projection(3).out.out_features == 384


def test_a_file_keeps_the_statistics_exactly(tmp_path: Path) -> None:
    made, path = projection(), tmp_path / "p.safetensors"
    made.save(path, {"command": "test"})
    kinds = {name: value.dtype for name, value in load_file(path).items()}
    assert all((kind == torch.float16) == name.startswith(("hidden", "out")) for name, kind in kinds.items())
    again, metadata = load_projection(path, 6, 4)
    assert metadata["command"] == "test"
    assert torch.equal(again.mean, made.mean) and torch.equal(again.scale, made.scale)
    assert torch.equal(again.hidden.weight, made.hidden.weight.half().float())
