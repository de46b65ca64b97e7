"""Names and the bank made of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from score.errors import ConfigError
from score.model.towers.tiny import TinyTower
from score.model.vocabulary import TextEncoder, warn_of_equals
from score.names import check, is_seen, normalise, synonyms

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


def counted(tower: TinyTower, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many prompts the tower was asked for, call by call."""
    calls: list[int] = []
    encode = tower.encode_text
    monkeypatch.setattr(tower, "encode_text", lambda texts: (calls.append(len(texts)), encode(texts))[1])
    return calls


def test_only_new_words_are_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tower = TinyTower(embed_dim=16, seed=0)
    first = TextEncoder(tower, PROMPTS, tmp_path)(["ship", "plane"]).embeds
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    calls = counted(tower, monkeypatch)
    bank = TextEncoder(tower, PROMPTS, tmp_path)(["plane", "dam", "ship"])
    assert calls == [len(PROMPTS)]
    assert torch.equal(bank.embeds[[2, 0]], first)
    TextEncoder(tower, PROMPTS[:1], tmp_path)(["ship"])  # other prompts make another row
    assert calls[1:] == [1]
    for file in tmp_path.rglob("*.safetensors"):
        file.write_bytes(b"damaged")
    torch.testing.assert_close(TextEncoder(tower, PROMPTS, tmp_path)(["ship", "plane"]).embeds, first)


def test_other_weights_never_read_kept_words(tmp_path: Path) -> None:
    for seed in (0, 1):
        tower = TinyTower(embed_dim=16, seed=seed)
        kept = TextEncoder(tower, PROMPTS, tmp_path)(["ship"]).embeds
        assert torch.equal(kept, TextEncoder(tower, PROMPTS, None)(["ship"]).embeds)


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    tower = TinyTower(embed_dim=16, seed=0)
    bank = TextEncoder(tower, PROMPTS, tmp_path / "file" / "cache")(["ship", "plane"])
    assert torch.equal(bank.embeds, TextEncoder(tower, PROMPTS, None)(["ship", "plane"]).embeds)
    assert [record.getMessage()[:37] for record in caplog.records] == ["words are not kept for the next run: "]


def test_a_bank_made_in_inference_mode_can_be_trained_with() -> None:
    encoder = TextEncoder(TinyTower(embed_dim=16, seed=0), PROMPTS, None)
    with torch.inference_mode():
        encoder(["ship"])
    weight = torch.ones(16, requires_grad=True)
    (encoder(["ship"]).embeds * weight).sum().backward()
    assert weight.grad is not None


def test_words_that_are_one_to_the_tower_are_named(caplog: pytest.LogCaptureFixture) -> None:
    rows = torch.eye(4)[[0, 1, 0, 2]]
    warn_of_equals(["ship", "dam", "vessel", "quay"], rows)
    assert [record.getMessage() for record in caplog.records] == [
        "the text tower reads 'ship' and 'vessel' as one word"
    ]


@pytest.mark.parametrize("prompts", [[], ["no place for a name"], ["{} and {}"]])
def test_bad_prompts(prompts: list[str]) -> None:
    with pytest.raises(ConfigError, match="prompts"):
        TextEncoder(TinyTower(embed_dim=16, seed=0), prompts, None)


def test_every_word_is_averaged_over_its_own_prompts() -> None:
    """Synonyms and classes keep their order; a word's row does not depend on the others'."""
    tower = TinyTower(embed_dim=16, seed=0)
    together = TextEncoder(tower, PROMPTS, None)(["ship,boat", "plane"])
    for row, word in enumerate(("ship", "boat", "plane")):
        torch.testing.assert_close(together.embeds[row], TextEncoder(tower, PROMPTS, None)([word]).embeds[0])


def test_a_bank_is_in_full_precision_under_autocast() -> None:
    tower = TinyTower(embed_dim=16, seed=0)
    expected = TextEncoder(tower, PROMPTS, None)(["ship"]).embeds
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(TextEncoder(tower, PROMPTS, None)(["ship"]).embeds, expected)
