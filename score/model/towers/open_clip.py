"""Build a tower from an open_clip model, its weights published, random or a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
from huggingface_hub import try_to_load_from_cache
from torch import nn

from score.errors import ConfigError, WeightsError
from score.files import user_folder
from score.model.towers.clip import OpenCLIPTower
from score.model.towers.convnext import ConvNeXtTower
from score.model.towers.resnet import ResNetTower
from score.model.towers.vit import ViTTower

HUB = "https://huggingface.co/"  # what is published there may be in the hub's local cache


def find_weights(published: Mapping[str, Any], folder: str | Path | None) -> Path:
    """Find a published weight file: in ``folder``, this user's, or the hub's local cache; nothing is downloaded.

    Args:
        published: ``file``, and ``repository``, the address of where it is published.
        folder: where ``score weights`` puts files, or None.

    Raises:
        WeightsError: naming the file, where it is published, and where to put it.
    """
    file, repository = published["file"], published["repository"]
    for own in (folder, user_folder("weights")):
        if own is not None and (Path(own) / Path(file).name).is_file():
            return Path(own) / Path(file).name
    if repository.startswith(HUB):
        cached = try_to_load_from_cache(repository.removeprefix(HUB), file)
        if isinstance(cached, str):
            return Path(cached)
    place = folder if folder is not None else "a folder, and set SCORE_WEIGHTS to it"
    raise WeightsError(
        f"weights not found: {Path(file).name}, published as {file} of {repository}; fetch it with score weights, "
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
