"""Names, synonyms, prompts, and the bank of class embeddings made of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from score.errors import ConfigError
from score.model.towers.base import Tower
from score.names import synonyms


def check(names: Sequence[str]) -> list[str]:
    """Return a vocabulary as a list.

    Raises:
        ConfigError: it is empty, has an empty name, or says a name twice.
    """
    if not names:
        raise ConfigError(
            "empty vocabulary: no class name given, name at least one, as in vocabulary=[ship,'storage tank']"
        )
    first: dict[str, str] = {}
    for name in names:
        words = synonyms(str(name))
        if not words:
            raise ConfigError(f"empty class name in the vocabulary: {list(names)}, remove it or name it")
        for word in words:
            if word in first:
                raise ConfigError(
                    f"duplicate class name in the vocabulary: '{word}' ({first[word]}, {name}), keep one of them"
                )
        first.update(dict.fromkeys(words, str(name)))
    return [str(name) for name in names]


class TextBank(NamedTuple):
    """Embeddings of words.

    Attributes:
        embeds: ``[S, E]``, one normalised row a synonym.
        counts: synonyms of each class; they sum to ``S``.
    """

    embeds: Tensor
    counts: list[int]


class Vocabulary(NamedTuple):
    """Classes to look for, as one model reads them.

    Attributes:
        names: the ``C`` class names as given.
        seen: ``[C]`` bool, which of them (or a synonym) the model was trained on.
        embeds, counts: their :class:`TextBank`.
    """

    names: list[str]
    seen: Tensor
    embeds: Tensor
    counts: list[int]


class TextEncoder:
    """Makes text banks with a tower, and remembers them.

    Args:
        tower: the frozen encoder.
        prompts: templates with one ``{}`` each.
        cache: folder in which banks are kept between runs; ``None`` keeps them in memory only.
    """

    def __init__(self, tower: Tower, prompts: Sequence[str], cache: str | Path | None) -> None:
        if not prompts or any(prompt.count("{}") != 1 for prompt in prompts):
            raise ConfigError("prompts: each needs exactly one {} for the class name")
        self.tower, self.prompts = tower, list(prompts)
        self.cache = Path(cache) if cache is not None else None
        self._banks: dict[tuple[str, ...], TextBank] = {}

    def __call__(self, names: Sequence[str]) -> TextBank:
        """The bank of a vocabulary; a bank depends on names, prompts and weights only."""
        key = tuple(names)
        if key not in self._banks:
            words = [synonyms(name) for name in check(names)]
            embeds = self._embed([word for group in words for word in group])
            self._banks[key] = TextBank(embeds, [len(group) for group in words])
        return self._banks[key]

    def _embed(self, words: list[str]) -> Tensor:
        """``[len(words), E]``: each word's prompts encoded, normalised, averaged, normalised again."""
        file = self._file(words)
        if file is not None and file.is_file():
            try:
                return load_file(file)["embeds"]
            except (SafetensorError, KeyError):  # a damaged cache is no reason to fail: make it anew
                pass
        texts = [prompt.format(word) for word in words for prompt in self.prompts]
        with torch.autocast(self.tower.logit_scale.device.type, enabled=False):  # a bank outlives the step that asks
            embeds = F.normalize(self.tower.encode_text(texts), dim=-1)
        embeds = F.normalize(embeds.unflatten(0, (len(words), len(self.prompts))).mean(dim=1), dim=-1).cpu()
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(f".{os.getpid()}.part")
            save_file({"embeds": embeds}, part)
            part.replace(file)
        return embeds

    def _file(self, words: list[str]) -> Path | None:
        if self.cache is None:
            return None
        key = "\n".join([self.tower.identity, *self.prompts, "", *words])
        return self.cache / "text_banks" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.safetensors"
