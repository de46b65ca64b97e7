"""Does a tower work? Two questions that a tower of random weights cannot answer."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from score.data.synthetic import generate as synthetic
from score.masks import decode
from score.model.towers.base import Tower, resize

# Each word stands for an object; its partner should be nearer to it than any other pair's.
PAIRS = (
    ("ship", "boat"), ("airplane", "aircraft"), ("soccer field", "football pitch"), ("car", "vehicle"),
    ("bridge", "viaduct"), ("harbor", "port"), ("house", "residential building"), ("swimming pool", "pool of water"),
)  # fmt: skip
PROMPT = "satellite photo of a {}."
IMAGES, SIZE = 12, 256
STRIDE = 4  # of the masks that the model predicts


class Smoke(NamedTuple):
    """Shares of right answers, 0 .. 1.

    Attributes:
        words: words whose nearest other word is their partner, of 16; chance is 1/15.
        regions: drawn objects named right among the synthetic set's classes, mean over classes; chance is 1/13.
    """

    words: float
    regions: float


@torch.no_grad()
def smoke(tower: Tower) -> Smoke:
    """Ask a tower for the partners of words, and for the names of objects on twelve drawn scenes (seconds on a CPU)."""
    return Smoke(_words(tower), _regions(tower))


def _words(tower: Tower) -> float:
    words = [PROMPT.format(word) for pair in PAIRS for word in pair]
    embeds = F.normalize(tower.encode_text(words).float(), dim=-1)
    near = (embeds @ embeds.T).fill_diagonal_(-2).argmax(dim=1)
    partner = torch.arange(len(words)) ^ 1  # 0 and 1, 2 and 3, ...
    return (near.cpu() == partner).float().mean().item()


def _regions(tower: Tower) -> float:
    names = synthetic.NAMES["synthetic"]
    bank = F.normalize(tower.encode_text([PROMPT.format(name) for name in names]).float(), dim=-1)
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (tower.pixel_mean, tower.pixel_std))
    right, total = torch.zeros(len(names)), torch.zeros(len(names))
    for index in range(IMAGES):
        picture, annotations, _ = synthetic.render("synthetic", "val", index, size=SIZE, seed=0)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float()
        masks = torch.from_numpy(np.stack([decode(item["segmentation"]) for item in annotations])).float()
        dense = tower.pyramid(((pixels - mean) / std).unsqueeze(0))["dense"]
        logits = resize(resize(2 * masks[None] - 1, (SIZE // STRIDE, SIZE // STRIDE)), dense.shape[-2:])  # [1, K, h, w]
        embeds = F.normalize(tower.embed_regions(dense, logits)[0].float(), dim=-1)
        answers = (embeds @ bank.T).argmax(dim=1)
        labels = torch.tensor([item["category_id"] - 1 for item in annotations])
        total += torch.bincount(labels, minlength=len(names))
        right += torch.bincount(labels[answers == labels], minlength=len(names))
    return (right / total.clamp(min=1))[total > 0].mean().item()
