"""Checkpoints of the released codes (SCORE, FC-CLIP, Mask2Former): their names, and what of them becomes ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from zipfile import BadZipFile, is_zipfile

import numpy as np
import torch
from torch import Tensor

from score.errors import WeightsError
from score.weights.pickled import read_arrays

D = r"(\d+)"
LEVELS = ("res5", "res4", "res3")


def _level(match: re.Match[str]) -> str:
    return f"pixel_decoder.input_proj.{LEVELS[int(match[1])]}.{match[2]}.{match[3]}"


def _mlp(prefix: str) -> Callable[[re.Match[str]], str]:
    """Their MLPs count linear layers, ours count the ReLUs between them too."""
    return lambda match: f"{prefix}.{2 * int(match[1])}.{match[2]}"


# Released name (a pattern) -> our name. The first that matches the whole name counts.
TRAINABLE: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (rf"sem_seg_head\.pixel_decoder\.input_proj\.{D}\.{D}\.(\w+)", _level),
    (r"sem_seg_head\.pixel_decoder\.transformer\.level_embed", "pixel_decoder.level_embed"),
    (rf"sem_seg_head\.pixel_decoder\.transformer\.encoder\.layers\.{D}\.(.+)", r"pixel_decoder.layers.\1.\2"),
    (r"sem_seg_head\.pixel_decoder\.adapter_1\.weight", "pixel_decoder.lateral.0.weight"),
    (r"sem_seg_head\.pixel_decoder\.adapter_1\.norm\.(\w+)", r"pixel_decoder.lateral.1.\1"),
    (r"sem_seg_head\.pixel_decoder\.layer_1\.weight", "pixel_decoder.output.0.weight"),
    (r"sem_seg_head\.pixel_decoder\.layer_1\.norm\.(\w+)", r"pixel_decoder.output.1.\1"),
    (r"sem_seg_head\.pixel_decoder\.mask_features\.(\w+)", r"pixel_decoder.mask_features.\1"),
    (
        rf"sem_seg_head\.predictor\.transformer_self_attention_layers\.{D}\.self_attn\.(.+)",
        r"mask_decoder.layers.\1.self_attn.\2",
    ),
    (
        rf"sem_seg_head\.predictor\.transformer_self_attention_layers\.{D}\.norm\.(\w+)",
        r"mask_decoder.layers.\1.self_norm.\2",
    ),
    (
        rf"sem_seg_head\.predictor\.transformer_cross_attention_layers\.{D}\.multihead_attn\.(.+)",
        r"mask_decoder.layers.\1.cross_attn.\2",
    ),
    (
        rf"sem_seg_head\.predictor\.transformer_cross_attention_layers\.{D}\.norm\.(\w+)",
        r"mask_decoder.layers.\1.cross_norm.\2",
    ),
    (rf"sem_seg_head\.predictor\.transformer_ffn_layers\.{D}\.norm\.(\w+)", r"mask_decoder.layers.\1.ffn_norm.\2"),
    (rf"sem_seg_head\.predictor\.transformer_ffn_layers\.{D}\.(linear\d\.\w+)", r"mask_decoder.layers.\1.\2"),
    (r"sem_seg_head\.predictor\.decoder_norm\.(\w+)", r"mask_decoder.norm.\1"),
    (r"sem_seg_head\.predictor\.(?:query_feat|static_query)\.weight", "mask_decoder.query_feat.weight"),
    (r"sem_seg_head\.predictor\.query_embed\.weight", "mask_decoder.query_pos.weight"),
    (r"sem_seg_head\.predictor\.level_embed\.weight", "mask_decoder.level_embed.weight"),
    (rf"sem_seg_head\.predictor\.mask_embed\.layers\.{D}\.(\w+)", _mlp("mask_decoder.mask_embed")),
    (rf"sem_seg_head\.predictor\._mask_pooling_proj\.{D}\.(\w+)", r"class_embedding.pooled_proj.\1.\2"),
    (rf"sem_seg_head\.predictor\.class_embed\.layers\.{D}\.(\w+)", _mlp("class_embedding.mlp")),
    (r"sem_seg_head\.predictor\.transformer\.layers\.(.+)", r"rai.transformer.layers.\1"),
    (r"sem_seg_head\.predictor\.learnable_weight", "rai.weight"),
    (r"sem_seg_head\.predictor\.kernel_size_logits", "rai.kernel_logits"),
    (r"sem_seg_head\.predictor\.logit_scale", "classifier.log_scale"),
    (r"void_embedding\.weight", "classifier.void"),
    (r"gca\.multiattn\.0\.(.+)", r"gca.attention.\1"),
]

# Frozen towers and fixed buffers: what they are, and why they are left out.
LEFT: list[tuple[str, str]] = [
    (r"backbone\.clip_model\..+", "frozen backbone tower, loaded from its own file"),
    (r"backbone\..+", "backbone of Mask2Former, in whose place the frozen tower stands"),
    (r"clip_rs\.clip_model\.visual\..+", "frozen scene tower, loaded from its own file"),
    (r"clip_rs\.clip_model\..+", "text half of the scene tower, never used"),
    (r"sem_seg_head\.predictor\.class_embed\.(weight|bias)", "classifier of a closed list of classes"),
    (r"criterion\.empty_weight", "class weights of the loss, set by the configuration"),
    (r"pixel_(mean|std)", "pixel statistics, set by the tower"),
]
# Ours that a released checkpoint does not hold, because the released code does not save them.
UNSAVED = ("rai.calls",)


@dataclass
class Conversion:
    """A checkpoint taken apart, name by name.

    Attributes:
        state: our names and their tensors.
        used: released name to ours.
        left: released name to the reason it was not used.
    """

    state: dict[str, Tensor] = field(default_factory=dict)
    used: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read a state dict: a ``.pth`` or ``.pkl`` of detectron2, or an ``.npz`` of arrays under the released names.

    Raises:
        WeightsError: the file is missing, damaged, not a state dict, or would run code.
    """
    if not path.is_file():
        raise WeightsError(f"checkpoint not found: {path}")
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return {name: torch.from_numpy(file[name]) for name in file.files}
        if path.suffix == ".pkl":
            content = read_arrays(path)
        else:  # old files cannot be mapped; new ones need not fit in memory twice
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except UnpicklingError as error:
        if "truncated" in str(error):
            raise WeightsError(f"cannot read {path} ({error}); is it cut short?") from error
        raise WeightsError(
            f"{path} holds more than tensors, and opening it could run code; where you trust it, save its state dict "
            "alone: torch.save({'model': state_dict}, FILE)"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, LookupError, BadZipFile) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise WeightsError(f"cannot read {path} ({reason}); is it cut short?") from error
    state = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path} is not a checkpoint: no state dict of tensors, alone or under 'model'")
    return state


def our_name(name: str) -> str | None:
    """Our name of a released trainable parameter, or None."""
    for pattern, target in TRAINABLE:
        match = re.fullmatch(pattern, name)
        if match:
            return target(match) if callable(target) else match.expand(target)
    return None


def convert(checkpoint: Mapping[str, Tensor]) -> Conversion:
    """Rename a released state dict.

    Raises:
        WeightsError: a name is neither known nor known to be unused; the first such is named.
    """
    result = Conversion()
    for name, value in checkpoint.items():
        target = our_name(name)
        reason = next((why for pattern, why in LEFT if re.fullmatch(pattern, name)), None)
        if target is not None:
            result.state[target] = torch.as_tensor(value)
            result.used[name] = target
        elif reason is not None:
            result.left[name] = reason
        else:
            raise WeightsError(f"unknown name in the checkpoint: {name}; it is not of SCORE, FC-CLIP or Mask2Former")
    return result


def complete(conversion: Conversion, own: Mapping[str, Tensor], gumbel_calls: int) -> dict[str, Tensor]:
    """A whole trainable state from a conversion, checked against the model's own.

    What the released code does not save is added: the count of calls, as past the phase that mixes dilations.

    Raises:
        WeightsError: a parameter is missing, too many, or of another shape; the first is named, by both names.
    """
    state = dict(conversion.state)
    if "rai.calls" in own and "rai.calls" not in state:
        state["rai.calls"] = torch.tensor(gumbel_calls)
    released = {ours: theirs for theirs, ours in conversion.used.items()}
    for name, value in own.items():
        if name not in state:
            raise WeightsError(f"missing in the checkpoint: {name}; it is of another architecture or cut short")
        if tuple(state[name].shape) != tuple(value.shape):
            raise WeightsError(
                f"shape of {released.get(name, name)}: {tuple(state[name].shape)}, "
                f"the model's {name} is {tuple(value.shape)}; "
                "choose the configuration it was trained with"
            )
    for name in state:
        if name not in own:
            raise WeightsError(
                f"not in the model: {released[name]} ({name}); choose the configuration it was trained with"
            )
    return {name: state[name].to(value.dtype) for name, value in own.items()}
