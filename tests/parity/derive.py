"""Another case from a recorded one: its first image alone, its first two classes read as synonyms of one.

What depends on neither is cut out of the recorded arrays; what does is computed here, in NumPy and float64, by the
description beside them. ``python -m tests.parity.derive SOURCE TARGET``; then set ``SCORE_PARITY_DIR=TARGET``.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
from torch import from_numpy
from torch.nn.functional import interpolate

Arrays = dict[str, np.ndarray]


def derive(source: Path, target: Path) -> None:
    """Write the derived case; training steps are not derived, for their losses are means over the batch."""
    target.mkdir(parents=True)
    config = json.loads((source / "config.json").read_text())
    with np.load(source / "inference.npz") as file:
        recorded = {key: file[key] for key in file.files}
    names, batch = config["test_vocabulary"], len(config["image_sizes"])
    config["test_vocabulary"] = [",".join(names[:2]), *names[2:]]
    config["image_sizes"], config["output_sizes"] = config["image_sizes"][:1], config["output_sizes"][:1]
    config = {key: value for key, value in config.items() if not key.startswith("train_") or key.endswith("y")}
    (target / "config.json").write_text(json.dumps(config))
    arrays = {name: value for key, found in recorded.items() for name, value in first(key, found, batch, recorded)}
    arrays |= merged(arrays, config)
    arrays |= instances(arrays, config)
    np.savez(target / "inference.npz", **arrays)
    for path in source.glob("weights_*.npz"):
        shutil.copyfile(path, target / path.name)


def first(key: str, found: np.ndarray, batch: int, recorded: Arrays) -> list[tuple[str, np.ndarray]]:
    """What a recorded array is for the first image alone; nothing of the others' own."""
    if key.startswith("img") or key.endswith("_packed"):
        if not key.endswith("attn_mask_packed"):
            return []
        shape = recorded[key.replace("packed", "shape")]
        bits = np.unpackbits(found, count=int(np.prod(shape)))[: int(np.prod(shape)) // batch]
        return [(key, np.packbits(bits))]
    if key.endswith("attn_mask_shape"):
        return [(key, np.array([found[0] // batch, *found[1:]]))]
    if key.startswith("image"):
        return [(key, found)] if key == "image0" else []
    if (key.startswith("text_") and not key.endswith("adapted")) or key == "overlap_mask":
        return [(key, found)]
    if key.startswith("scene_tokens") or key.endswith("_query"):
        return [(key, found[:, :1])]
    return [(key, found[: len(found) // batch])]


def merged(arrays: Arrays, config: dict) -> Arrays:
    """Logits of the first class are the larger of its synonyms'; it is seen if one of them is."""
    found = {}
    for key, value in arrays.items():
        if key.endswith("class_logits") or key == "out_vocab_logits":
            found[key] = np.concatenate([value[..., :2].max(-1, keepdims=True), value[..., 2:]], axis=-1)
    overlap = arrays["overlap_mask"]
    found["overlap_mask"] = np.concatenate([overlap[:2].max(keepdims=True), overlap[2:]])
    found["text_test_num_templates"] = np.concatenate([[2], arrays["text_test_num_templates"][2:]])
    last = max((key for key in found if key.startswith("head")), key=lambda key: int(key[4:].split("_")[0]))
    inside, outside = found[last].astype(np.float64), found["out_vocab_logits"][..., :-1].astype(np.float64)
    for index, (alpha, beta) in enumerate(config["ensemble_alpha_beta_pairs"]):
        weight = np.where(found["overlap_mask"] == 1, alpha, beta)
        void = softmax(inside)[..., -1:]
        both = softmax(inside[..., :-1]) ** (1 - weight) * softmax(outside) ** weight
        classes = both / both.sum(-1, keepdims=True) * (1 - void)
        found[f"ensemble_logprob_pair{index}"] = np.log(np.concatenate([classes, void], -1) + 1e-8).astype(np.float32)
    return found


def instances(arrays: Arrays, config: dict) -> Arrays:
    """The best query-class pairs of the one image, with masks, boxes and scores, and its semantic map."""
    height, width = config["output_sizes"][0]
    logits = from_numpy(arrays[f"head{config['sizes']['dec_layers'] - 1}_mask_logits"])
    padded = interpolate(logits, arrays["input_padded"].shape[-2:], mode="bilinear", align_corners=False)
    full = padded[0, :, : config["image_sizes"][0][0], : config["image_sizes"][0][1]].double().numpy()
    assert full.shape[1:] == (height, width), "the first image is recorded at its own size"
    chance = softmax(arrays["ensemble_logprob_pair0"][0].astype(np.float64))[:, :-1]
    order = np.argsort(-chance, axis=None, kind="stable")[: config["sizes"]["topk"]]
    query, label = np.unravel_index(order, chance.shape)
    masks, sigmoid = full[query] > 0, 1 / (1 + np.exp(-full))
    area = masks.sum((1, 2))
    quality = (sigmoid[query] * masks).sum((1, 2)) / (area + 1e-6)
    boxes = np.zeros((len(query), 4), dtype=np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        if mask.any():
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return {
        "img0_query": query,
        "img0_classes": label,
        "img0_class_scores": chance.flat[order].astype(np.float32),
        "img0_scores": (chance.flat[order] * quality).astype(np.float32),
        "img0_boxes": boxes,
        "img0_masks_packed": np.packbits(masks),
        "img0_masks_shape": np.array(masks.shape),
        "img0_semantic": np.einsum("qc,qhw->chw", chance, sigmoid).astype(np.float16),
    }


def softmax(x: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


if __name__ == "__main__":
    derive(Path(sys.argv[1]), Path(sys.argv[2]))
