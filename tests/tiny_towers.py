"""Random open_clip towers of each kind, built in a test."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import open_clip
import torch

from score.model.towers.open_clip import OpenCLIPTower, open_clip_tower

WIDTH = 24  # of the space of image and text
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
VISION = {
    "convnext": {"timm_model_name": "convnext_atto", "timm_pool": "", "timm_proj": "mlp", "image_size": 64},
    "resnet": {"layers": [1, 1, 1, 1], "width": 8, "image_size": 64, "head_width": 32},
    "vit": {"layers": 2, "width": 64, "patch_size": 16, "image_size": 64, "head_width": 32},
}


def tiny_tower(kind: str, **options: object) -> OpenCLIPTower:
    """A tower of a kind of :data:`VISION`, with random weights and biases."""
    name = f"tinier_{kind}"
    with TemporaryDirectory() as folder:
        file = Path(folder, f"{name}.json")
        file.write_text(json.dumps({"embed_dim": WIDTH, "vision_cfg": VISION[kind], "text_cfg": TEXT}))
        open_clip.add_model_config(file)
        torch.manual_seed(0)
        tower = open_clip_tower(architecture=name, weights="random", published={}, **options)
    with torch.no_grad():
        for parameter in tower.clip.visual.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return tower
