"""Towers made of open_clip models: ConvNeXt and ResNet CLIPs here, vision transformers in :mod:`.scene`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import open_clip
import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor, nn
from torch.nn import functional as F

from score.errors import ConfigError, WeightsError
from score.files import sha256
from score.model.towers.base import Scene, Tower, pool_regions, resize

HUB = "https://huggingface.co/"  # what is published there may be in the hub's local cache
TEXT_PARTS = (
    "transformer",
    "token_embedding",
    "positional_embedding",
    "ln_final",
    "text_projection",
    "attn_mask",
    "text",
)


class OpenCLIPTower(Tower):
    """What every open_clip model shares: its text half, its logit scale, its pixel statistics.

    Args:
        clip: the model.
        tokenizer: from prompts to token ids ``[N, 77]``.
        source: names the weights in :attr:`identity`; a file is identified by its SHA-256.
    """

    def __init__(self, clip: nn.Module, tokenizer: open_clip.tokenizer.SimpleTokenizer, source: str | Path) -> None:
        super().__init__()
        self.clip = clip
        self.tokenizer = tokenizer
        self.source = source
        self.pixel_mean = [255.0 * x for x in open_clip.OPENAI_DATASET_MEAN]
        self.pixel_std = [255.0 * x for x in open_clip.OPENAI_DATASET_STD]
        size = clip.visual.image_size
        self.image_size = size if isinstance(size, tuple) else (size, size)
        self.embed_dim = self._width()
        self.requires_grad_(False)
        self.eval()

    def _width(self) -> int:
        projection = getattr(self.clip, "text_projection", None)
        if isinstance(projection, Tensor):
            return projection.shape[1]
        return self.clip.visual.output_dim

    @property
    def visual(self) -> nn.Module:
        """The image half."""
        return self.clip.visual

    @property
    def logit_scale(self) -> Tensor:
        return self.clip.logit_scale.exp().clamp(max=100.0)

    @cached_property
    def identity(self) -> str:  # type: ignore[override]
        if isinstance(self.source, Path):
            return f"{self.source.name} {sha256(self.source)}"
        digest = hashlib.sha256()
        for parameter in (self.clip.logit_scale, *self.clip.visual.parameters()):
            digest.update(parameter.detach().flatten()[:64].float().cpu().numpy().tobytes())
        return f"{self.source} {digest.hexdigest()}"

    def encode_text(self, prompts: Sequence[str], batch: int = 256) -> Tensor:
        device = self.clip.logit_scale.device
        with torch.no_grad():
            tokens = self.tokenizer(list(prompts))
            return torch.cat([self.clip.encode_text(part.to(device)).float() for part in tokens.split(batch)])

    def drop_text(self) -> None:
        for name in TEXT_PARTS:
            if hasattr(self.clip, name):
                delattr(self.clip, name)

    def drop_vision(self) -> None:
        del self.clip.visual

    def _scene_input(self, images: Tensor) -> Tensor:
        return resize(images, self.image_size)


class ConvNeXtTower(OpenCLIPTower):
    """A ConvNeXt CLIP: hierarchical features, and a head that embeds any pooled vector."""

    def __init__(self, clip: nn.Module, tokenizer: open_clip.tokenizer.SimpleTokenizer, source: str | Path) -> None:
        super().__init__(clip, tokenizer, source)
        infos = self.visual.trunk.feature_info
        self.channels = {f"res{i + 2}": info["num_chs"] for i, info in enumerate(infos)}

    @torch.no_grad()
    def pyramid(self, images: Tensor) -> dict[str, Tensor]:
        maps, x = {}, self.visual.trunk.stem(images)
        for name, stage in zip(self.channels, self.visual.trunk.stages, strict=True):
            x = maps[name] = stage(x)
        return {**maps, "dense": self.visual.trunk.norm_pre(x)}

    @torch.no_grad()
    def embed_pooled(self, pooled: Tensor) -> Tensor:
        rows = pooled.flatten(0, -2)[:, :, None, None]  # each vector as a 1x1 map, which is what the trunk's head takes
        return self.visual.head(self.visual.trunk.head(rows)).view(*pooled.shape[:-1], -1)

    @torch.no_grad()
    def encode_scene(self, images: Tensor) -> Scene:
        dense = self.pyramid(self._scene_input(images))["dense"]
        embed = self.embed_pooled(dense.mean(dim=(-2, -1)))
        patches = self.embed_pooled(dense.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return Scene(F.normalize(embed.float(), dim=-1), patches.float())


class ResNetTower(OpenCLIPTower):
    """A ResNet CLIP: regions are embedded by its attention pooling, with the mask as attention mask."""

    def __init__(self, clip: nn.Module, tokenizer: open_clip.tokenizer.SimpleTokenizer, source: str | Path) -> None:
        super().__init__(clip, tokenizer, source)
        stages = (self.visual.layer1, self.visual.layer2, self.visual.layer3, self.visual.layer4)
        self.channels = {f"res{i + 2}": stage[-1].bn3.num_features for i, stage in enumerate(stages)}

    @torch.no_grad()
    def pyramid(self, images: Tensor) -> dict[str, Tensor]:
        visual = self.visual
        maps, x = {}, visual.stem(images)
        for name, stage in zip(
            self.channels, (visual.layer1, visual.layer2, visual.layer3, visual.layer4), strict=True
        ):
            x = maps[name] = stage(x)
        return {**maps, "dense": x}

    def _positions(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The pooling token's position code ``[D]`` and the cells' ``[D, h, w]``, resized to the map."""
        codes = self.visual.attnpool.positional_embedding
        side = round((len(codes) - 1) ** 0.5)
        grid = codes[1:].T.reshape(1, -1, side, side)
        return codes[0], (grid if (side, side) == size else resize(grid, size))[0]

    @torch.no_grad()
    def embed_regions(self, dense: Tensor, mask_logits: Tensor) -> Tensor:
        pool = self.visual.attnpool
        token_code, cell_codes = self._positions(dense.shape[-2:])
        inside = (mask_logits > 0).flatten(2)  # [B, Q, hw]
        token = pool_regions(dense, mask_logits > 0) + token_code  # [B, Q, D]
        cells = (dense + cell_codes).flatten(2).transpose(1, 2)  # [B, hw, D]

        def split(x: Tensor) -> Tensor:
            return x.unflatten(-1, (pool.num_heads, -1))  # [..., heads, D/heads]

        query = split(pool.q_proj(token))
        own_logit = (query * split(pool.k_proj(token))).sum(-1, keepdim=True)  # [B, Q, heads, 1]
        logits = torch.einsum("bqnd,bpnd->bqnp", query, split(pool.k_proj(cells)))
        logits = logits.masked_fill(~inside.unsqueeze(2), -torch.inf)
        share = (torch.cat([own_logit, logits], dim=-1) * query.shape[-1] ** -0.5).softmax(-1)
        value = torch.einsum("bqnp,bpnd->bqnd", share[..., 1:], split(pool.v_proj(cells)))
        value = value + share[..., :1] * split(pool.v_proj(token))
        return pool.c_proj(value.flatten(-2))

    @torch.no_grad()
    def encode_scene(self, images: Tensor) -> Scene:
        dense = self.pyramid(self._scene_input(images))["dense"]
        everywhere = torch.ones_like(dense[:, :1])
        embed = self.embed_regions(dense, everywhere)[:, 0]
        pool = self.visual.attnpool
        cells = (dense + self._positions(dense.shape[-2:])[1]).permute(0, 2, 3, 1)
        patches = pool.c_proj(pool.v_proj(cells)).permute(0, 3, 1, 2)  # values only, as MaskCLIP reads a CLIP densely
        return Scene(F.normalize(embed.float(), dim=-1), patches.float())


def find_weights(published: Mapping[str, Any], folder: str | Path | None) -> Path:
    """Find a published weight file: in ``folder``, else in the hub's local cache; nothing is downloaded.

    Args:
        published: ``file``, and ``repository``, the address of where it is published.
        folder: where ``tools/weights.py`` puts files, or None.

    Raises:
        WeightsError: naming the file, where it is published, and where to put it.
    """
    file, repository = published["file"], published["repository"]
    if folder is not None and (Path(folder) / Path(file).name).is_file():
        return Path(folder) / Path(file).name
    if repository.startswith(HUB):
        cached = try_to_load_from_cache(repository.removeprefix(HUB), file)
        if isinstance(cached, str):
            return Path(cached)
    place = folder if folder is not None else "a folder, and set SCORE_WEIGHTS to it"
    raise WeightsError(
        f"weights not found: {Path(file).name}, published as {file} of {repository}; fetch it with tools/weights.py, "
        f"put it in {place}, or name it with backbone.tower.weights=FILE or scene.tower.weights=FILE"
    )


def open_clip_tower(
    *,
    architecture: str,
    weights: str,
    published: Mapping[str, Any],
    folder: str | None = None,
    quick_gelu: bool = False,
    precision: str = "fp32",
) -> OpenCLIPTower:
    """Build any open_clip model as a tower.

    Args:
        architecture: open_clip's name of it.
        weights: ``published``, ``random``, or the path of a checkpoint.
        published: the published weights, as :func:`find_weights` takes them.
        folder: where they are looked for first.
        quick_gelu: the activation the weights were trained with.
        precision: ``fp32``, ``fp16`` or ``bf16``, of convolutions, linear layers and attention.

    Raises:
        ConfigError: open_clip does not know the architecture.
        WeightsError: the weights are missing, damaged, or of another architecture.
    """
    from score.model.towers.vit import ViTTower

    if architecture not in open_clip.list_models():
        raise ConfigError(f"unknown architecture: {architecture}; open_clip.list_models() has the names")
    if weights == "random":
        path = None
    elif weights == "published":
        path = find_weights(published, folder)
    else:
        path = Path(os.path.expanduser(weights))
        if not path.is_file():
            raise WeightsError(f"weights not found: {path}; name a checkpoint of {architecture}")
    clip = open_clip.create_model(architecture, force_quick_gelu=quick_gelu, precision=precision, pretrained_text=False)
    if path is not None:
        _load(clip, path, architecture)
    tokenizer = open_clip.get_tokenizer(architecture)
    visual = clip.visual
    kind: type[OpenCLIPTower]
    if isinstance(visual, open_clip.modified_resnet.ModifiedResNet):
        kind = ResNetTower
    elif isinstance(visual, open_clip.transformer.VisionTransformer):
        kind = ViTTower
    elif hasattr(getattr(visual, "trunk", None), "stages"):
        kind = ConvNeXtTower
    else:
        raise ConfigError(f"cannot use {architecture} as a tower: its image half is a {type(visual).__name__}")
    return kind(clip, tokenizer, path if path is not None else f"{architecture} random")


def _load(clip: nn.Module, path: Path, architecture: str) -> None:
    try:
        open_clip.load_checkpoint(clip, str(path), strict=True, weights_only=True, device="cpu")
    except Exception as error:  # the many ways in which a file can fail to be this model's
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = (
            lines[1] if len(lines) > 1 and lines[0].startswith("Error(s) in loading") else (lines or [repr(error)])[0]
        )
        raise WeightsError(f"weights do not fit {architecture}: {path}: {reason[:300]}") from error
