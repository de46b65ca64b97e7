"""Count what a training step of an experiment computes and keeps for its gradient, an image, without any weights.

Usage: python benchmarks/training.py [EXPERIMENT] [KEY=VALUE ...]

Operations are those of matrix products, convolutions and attention, multiplications and additions counted apart. What
is kept is counted under bf16, unless runtime.amp=off. The towers are counted from their shapes alone, the trained part
by one step on the CPU with a random image of 35 objects, as many as a patch of iSAID has on average.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext

import open_clip
import torch
from detectron2.structures import BitMasks, Instances
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from torch.utils.flop_counter import FlopCounterMode

from score.app.command import CONFIGS
from score.model.towers.convnext import ConvNeXtTower
from score.model.towers.open_clip import OpenCLIPTower
from score.model.towers.vit import ViTTower
from score.weights import folder

OBJECTS = 35
STAND_INS = (  # towers of the published one's widths that take no time
    "backbone=tiny", "backbone.embed_dim=768", "backbone.channels={res2:192,res3:384,res4:768,res5:1536}",
    "backbone.tower.embed_dim=768", "backbone.tower.channels=192", "scene=tiny", "scene.tower.embed_dim=768",
    "model.train_names=[ship,plane]", "paths.cache=null",
)  # fmt: skip


def tower(settings: DictConfig, size: int) -> float:
    """Operations of a tower for an image, in 10^9."""
    with torch.device("meta"):
        clip = open_clip.create_model(settings.architecture, device="meta", pretrained_text=False)
    kind: type[OpenCLIPTower] = ConvNeXtTower if "convnext" in settings.architecture else ViTTower
    built = kind(clip, open_clip.get_tokenizer(settings.architecture), "meta")
    image = torch.empty(1, 3, size, size, device="meta")
    with FlopCounterMode(display=False) as counter:
        if kind is ConvNeXtTower:
            built.pyramid(image)
        else:
            built.encode_scene(image)
    return counter.get_total_flops() / 1e9


def step(config: DictConfig, bf16: bool) -> tuple[float, float]:
    """Operations, and bytes kept for the gradient, of one step of the trained part, in 10^9."""
    torch.manual_seed(0)
    model = folder.build(config).train()
    size = config.input.train.size
    corners = torch.randint(0, size - 40, (OBJECTS, 2))
    masks = torch.zeros(OBJECTS, size, size, dtype=torch.bool)
    for mask, (top, left) in zip(masks, corners.tolist(), strict=True):
        mask[top : top + 40, left : left + 40] = True
    instances = Instances((size, size), gt_classes=torch.zeros(OBJECTS).long(), gt_masks=BitMasks(masks))
    model.vocabulary(model.train_names)
    kept: dict[int, int] = {}

    def keep(value: torch.Tensor) -> torch.Tensor:
        kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    with FlopCounterMode(display=False) as counter:
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value),
            torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext(),
        ):
            losses = model([{"image": torch.rand(3, size, size) * 255, "instances": instances}])
        sum(losses.values()).backward()  # type: ignore[union-attr]
    total = sum(count for place, count in kept.items() if place not in weights)
    return counter.get_total_flops() / 1e9, total / 1e9


def main() -> None:
    """Print the counts of an experiment, and of its phase that mixes dilations where it has one."""
    experiment, *changes = sys.argv[1:] or ["paper_isaid"]
    settings = [f"experiment={experiment}", *changes]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        real = compose("config", settings)
        config = compose("config", [*settings, *STAND_INS])
    OmegaConf.set_struct(config, False)
    for group in (config.backbone, config.scene):
        group.tower.pop("precision", None)  # the stand-ins have one
    backbone, scene = tower(real.backbone.tower, real.input.train.size), tower(real.scene.tower, 224)
    print(f"backbone {backbone:.0f}, scene {scene:.0f} GFLOP an image")
    for calls in dict.fromkeys((0, real.rai.gumbel_calls)):
        config.rai.gumbel_calls = calls
        flops, kept = step(config, real.runtime.amp != "off")
        phase = "mixing dilations" if calls else "one dilation"
        print(f"{phase}: {flops:.0f} GFLOP, {kept:.2f} GB kept for the gradient, an image", flush=True)


if __name__ == "__main__":
    main()
