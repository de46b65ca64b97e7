"""Names and the bank made of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from score.errors import ConfigError
from score.model.towers.tiny import TinyTower
from score.model.vocabulary import TextEncoder, check
from score.names import is_seen, normalise, synonyms

PROMPTS = ["aerial view of {}.", "a photo of the {}."]


def test_names_are_read_alike() -> None:
    assert normalise("Ground_Track-Field ") == "ground track field"
    assert synonyms("Plane, air_plane,") == ["plane", "air plane"]


def test_seen_means_an_equal_name_or_synonym() -> None:
    train = ["plane", "Large_Vehicle", "storage_tank,oil tank"]
    assert is_seen("large vehicle", train)
    assert is_seen("silo, Oil-Tank", train)
    assert not is_seen("airplane", train)
    assert not is_seen("vehicle", train)


@pytest.mark.parametrize(
    ("names", "line"),
    [
        ([], "empty vocabulary"),
        (["ship", " ,"], "empty class name"),
        (["storage_tank", "Storage tank"], "duplicate class name in the vocabulary: 'storage tank'"),
        (["ship", "boat,ship"], "duplicate class name in the vocabulary: 'ship'"),
    ],
)
def test_bad_vocabularies(names: list[str], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        check(names)


def test_bank_averages_normalised_prompts() -> None:
    tower = TinyTower(embed_dim=16, seed=0)
    bank = TextEncoder(tower, PROMPTS, None)(["ship, boat", "plane"])
    assert bank.counts == [2, 1]
    texts = tower.encode_text([prompt.format("boat") for prompt in PROMPTS])
    torch.testing.assert_close(bank.embeds[1], F.normalize(F.normalize(texts, dim=-1).mean(0), dim=0))
    torch.testing.assert_close(bank.embeds.norm(dim=-1), torch.ones(3))


def test_bank_is_kept_on_disk_by_weights_prompts_and_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tower = TinyTower(embed_dim=16, seed=0)
    first = TextEncoder(tower, PROMPTS, tmp_path)(["ship"]).embeds
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    calls: list[int] = []
    encode = tower.encode_text
    monkeypatch.setattr(tower, "encode_text", lambda texts: (calls.append(len(texts)), encode(texts))[1])
    torch.testing.assert_close(TextEncoder(tower, PROMPTS, tmp_path)(["ship"]).embeds, first)
    assert not calls
    TextEncoder(tower, PROMPTS[:1], tmp_path)(["ship"])
    assert calls == [1]
    next(iter(tmp_path.rglob("*.safetensors"))).write_bytes(b"damaged")
    for file in tmp_path.rglob("*.safetensors"):
        file.write_bytes(b"damaged")
    torch.testing.assert_close(TextEncoder(tower, PROMPTS, tmp_path)(["ship"]).embeds, first)


@pytest.mark.parametrize("prompts", [[], ["no place for a name"], ["{} and {}"]])
def test_bad_prompts(prompts: list[str]) -> None:
    with pytest.raises(ConfigError, match="prompts"):
        TextEncoder(TinyTower(embed_dim=16, seed=0), prompts, None)
