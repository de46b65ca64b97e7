"""Names, synonyms, prompts, and the bank of class embeddings made of them."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from score.errors import ConfigError, OutputError
from score.files import cache_folder, write_whole
from score.model.towers.base import Tower
from score.names import check, synonyms

logger = logging.getLogger(__name__)
_ONE_AT_A_TIME = threading.Lock()  # neither loading a text tower nor its tokenizer is safe between threads


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
    """Makes text banks with a tower, and remembers them by word.

    Args:
        prompts: templates with one ``{}`` each.
        cache: where words are kept between runs, as :func:`score.files.cache_folder` reads it; None: in memory only.
    """

    def __init__(self, tower: Tower, prompts: Sequence[str], cache: str | Path | None) -> None:
        if not prompts or any(prompt.count("{}") != 1 for prompt in prompts):
            raise ConfigError("prompts: each needs exactly one {} for the class name")
        self.tower, self.prompts, self.cache = tower, list(prompts), cache_folder(cache)
        self._rows: dict[str, Tensor] = {}
        self._banks: dict[tuple[str, ...], TextBank] = {}

    def __call__(self, names: Sequence[str]) -> TextBank:
        """The bank of a vocabulary; it depends on names, prompts and weights only."""
        key = tuple(names)
        if key not in self._banks:
            # a bank outlives the step that asks, its mode and its precision
            with _ONE_AT_A_TIME, torch.inference_mode(False), torch.no_grad():
                self._banks[key] = self._bank([synonyms(name) for name in check(names)])
        return self._banks[key]

    def _bank(self, groups: list[list[str]]) -> TextBank:
        words = [word for group in groups for word in group]
        for word in words:
            if word not in self._rows and (row := self._read(word)) is not None:
                self._rows[word] = row
        self._encode([word for word in words if word not in self._rows])
        embeds = torch.stack([self._rows[word] for word in words])
        warn_of_equals(words, embeds)
        return TextBank(embeds, [len(group) for group in groups])

    def _encode(self, words: list[str]) -> None:
        """Remember ``[E]`` of each word: its prompts encoded, normalised, averaged, normalised again."""
        if not words:
            return
        texts = [prompt.replace("{}", word) for word in words for prompt in self.prompts]
        with torch.autocast(self.tower.logit_scale.device.type, enabled=False):
            embeds = F.normalize(self.tower.encode_text(texts), dim=-1)
            embeds = F.normalize(embeds.unflatten(0, (len(words), len(self.prompts))).mean(dim=1), dim=-1).cpu()
        unknown = self.tower.unknown(words)
        if unknown:
            logger.warning("the text tower has no token for %s; what it finds by it is chance", ", ".join(unknown))
        self._rows |= zip(words, embeds, strict=True)
        for word in words:
            if word not in unknown:  # or the next run would not be warned
                self._write(word, self._rows[word])

    def _file(self, word: str) -> Path | None:
        if self.cache is None:
            return None
        key = "\n".join([self.tower.identity, *self.prompts, "", word])
        return self.cache / "words" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.safetensors"

    def _read(self, word: str) -> Tensor | None:
        file = self._file(word)
        try:
            return load_file(file)["embed"] if file is not None and file.is_file() else None
        except (OSError, SafetensorError, KeyError):  # a damaged cache is no reason to fail: the word is encoded anew
            return None

    def _write(self, word: str, row: Tensor) -> None:
        if (file := self._file(word)) is None:
            return
        try:
            write_whole(file, lambda partial: save_file({"embed": row.clone()}, partial))
        except OutputError as error:
            logger.warning("words are not kept for the next run: %s", error)
            self.cache = None


def warn_of_equals(words: Sequence[str], embeds: Tensor) -> None:
    """Name the words that are one and the same to the text tower, ``[S, E]`` being their rows."""
    alike = (embeds @ embeds.T > 1 - 1e-6).triu(1).nonzero().tolist()
    for first, second in alike:
        logger.warning("the text tower reads '%.60s' and '%.60s' as one word", words[first], words[second])
