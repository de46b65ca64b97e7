"""The learned part of the ``lite`` tower: pooled image features to the space of sentence embeddings, and its file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from score.errors import WeightsError
from score.files import write_whole

FORMAT = "score-lite-projection-1"


class Projection(nn.Module):
    """Standardisation and a two-layer perceptron, with the text side's common component.

    Sentences built on one prompt resemble each other whatever the class: ``text_mean`` is that common component,
    learned from generic words, and is taken off before embeddings are compared.

    Args:
        in_dim: channels of the tower's dense map.
        hidden_dim: width of the hidden layer.
        embed_dim: width of the sentence embeddings.
        dropout: on the input and the hidden layer, while it learns.
    """

    def __init__(self, in_dim: int, hidden_dim: int = 512, embed_dim: int = 384, dropout: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(in_dim))
        self.register_buffer("std", torch.ones(in_dim))
        self.register_buffer("text_mean", torch.zeros(embed_dim))
        self.register_buffer("scale", torch.tensor(30.0))
        self.hidden = nn.Linear(in_dim, hidden_dim)
        self.out = nn.Linear(hidden_dim, embed_dim)
        self.dropout = dropout

    def forward(self, pooled: Tensor) -> Tensor:
        """Embed pooled features ``[..., in_dim]`` as ``[..., embed_dim]``, not normalised."""
        x = (pooled.to(self.mean.dtype) - self.mean) / self.std
        x = F.gelu(self.hidden(F.dropout(x, self.dropout, self.training)))
        return self.out(F.dropout(x, self.dropout, self.training))

    def text(self, embeddings: Tensor) -> Tensor:
        """Take the common component off sentence embeddings ``[N, embed_dim]``."""
        return F.normalize(embeddings, dim=-1) - self.text_mean

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Write weights, in half precision but for the statistics, and how they were made.

        Raises:
            OutputError: the file cannot be written.
        """
        halved = ("hidden", "out")
        state = {k: v.half() if k.split(".")[0] in halved else v for k, v in self.state_dict().items()}
        content = save({k: v.contiguous().cpu() for k, v in state.items()}, {"format": FORMAT, **metadata})
        write_whole(path, lambda partial: partial.write_bytes(content))


def load_projection(path: Path, in_dim: int, embed_dim: int) -> tuple[Projection, dict[str, str]]:
    """Read a projection and its metadata.

    Raises:
        WeightsError: missing, damaged, not a projection, or one of another tower.
    """
    remedy = "make one with score align, or leave `projection` unset for the shipped one"
    if not path.is_file():
        raise WeightsError(f"projection not found: {path}; {remedy}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118, no dict
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"projection cannot be read: {path} ({error}); {remedy}") from None
    if metadata.get("format") != FORMAT or "hidden.weight" not in state:
        raise WeightsError(f"not a projection of the lite tower: {path}; {remedy}")
    projection = Projection(in_dim, state["hidden.weight"].shape[0], embed_dim)
    expected = {key: tuple(value.shape) for key, value in projection.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in state.items()}
    for key in sorted(expected.keys() | found.keys()):
        if expected.get(key) != found.get(key):
            raise WeightsError(
                f"projection of another tower: {path}, {key} is {found.get(key)}, "
                f"expected {expected.get(key)}; {remedy}"
            )
    projection.load_state_dict(state)
    return projection, metadata
