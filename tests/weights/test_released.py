"""Released names to ours: what is used, what is left, what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from score.errors import WeightsError
from score.weights.released import complete, convert, our_name, read_checkpoint

RELEASED = {
    "sem_seg_head.pixel_decoder.input_proj.0.0.weight": "pixel_decoder.input_proj.res5.0.weight",
    "sem_seg_head.pixel_decoder.adapter_1.norm.bias": "pixel_decoder.lateral.1.bias",
    "sem_seg_head.pixel_decoder.transformer.encoder.layers.5.self_attn.value_proj.bias": (
        "pixel_decoder.layers.5.self_attn.value_proj.bias"
    ),
    "sem_seg_head.predictor.transformer_cross_attention_layers.8.multihead_attn.in_proj_weight": (
        "mask_decoder.layers.8.cross_attn.in_proj_weight"
    ),
    "sem_seg_head.predictor.class_embed.layers.2.weight": "class_embedding.mlp.4.weight",
    "sem_seg_head.predictor.transformer.layers.4.norm2.weight": "rai.transformer.layers.4.norm2.weight",
    "gca.multiattn.0.out_proj.bias": "gca.attention.out_proj.bias",
    "void_embedding.weight": "classifier.void",
}


@pytest.mark.parametrize("name", RELEASED)
def test_names(name: str) -> None:
    assert our_name(name) == RELEASED[name]


def test_nothing_is_ignored_silently() -> None:
    checkpoint = {name: torch.zeros(1) for name in RELEASED}
    left = ("clip_rs.clip_model.token_embedding.weight", "criterion.empty_weight")
    checkpoint |= {name: torch.zeros(1) for name in left}
    result = convert(checkpoint)
    assert set(result.used) == set(RELEASED)
    assert result.left["clip_rs.clip_model.token_embedding.weight"] == "text half of the scene tower, never used"
    assert len(result.used) + len(result.left) == len(checkpoint)
    with pytest.raises(WeightsError, match="unknown name in the checkpoint: roi_heads.mask_head.weight"):
        convert({"roi_heads.mask_head.weight": torch.zeros(1)})


def test_completing_names_the_first_mismatch() -> None:
    own = {"gca.attention.out_proj.bias": torch.zeros(4), "rai.calls": torch.tensor(0)}
    good = convert({"gca.multiattn.0.out_proj.bias": torch.ones(4).half()})
    state = complete(good, own, gumbel_calls=2500)
    assert state["gca.attention.out_proj.bias"].dtype == torch.float32
    assert int(state["rai.calls"]) == 2500  # a released model is past the phase that mixes sizes
    with pytest.raises(WeightsError, match="missing in the checkpoint: classifier.void"):
        complete(good, {**own, "classifier.void": torch.zeros(1, 4)}, 0)
    with pytest.raises(WeightsError, match=r"shape of gca.multiattn.0.out_proj.bias: \(4,\).*is \(8,\)"):
        complete(good, {**own, "gca.attention.out_proj.bias": torch.zeros(8)}, 0)
    with pytest.raises(WeightsError, match="not in the model: gca.multiattn.0.out_proj.bias"):
        complete(good, {"rai.calls": torch.tensor(0)}, 0)


class Malicious:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple:
        return (print, ("code of the checkpoint ran",))


def test_reading(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {"void_embedding.weight": torch.ones(1, 4)}
    torch.save({"model": state, "iteration": 7}, tmp_path / "released.pth")
    torch.save(state, tmp_path / "bare.pth")
    np.savez(tmp_path / "arrays.npz", **{"void_embedding.weight": np.ones((1, 4), np.float16)})
    for name in ("released.pth", "bare.pth", "arrays.npz"):
        assert list(read_checkpoint(tmp_path / name)) == ["void_embedding.weight"]

    whole = (tmp_path / "released.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    torch.save({"model": {"x": Malicious()}}, tmp_path / "malicious.pth")
    (tmp_path / "malicious.pkl").write_bytes(pickle.dumps({"model": Malicious()}))
    arrays = pickle.dumps({"model": {"void_embedding.weight": np.ones((1, 4), np.float32)}, "__author__": "somebody"})
    (tmp_path / "detectron2.pkl").write_bytes(arrays)
    assert torch.equal(read_checkpoint(tmp_path / "detectron2.pkl")["void_embedding.weight"], torch.ones(1, 4))
    (tmp_path / "cut.pkl").write_bytes(arrays[: len(arrays) // 2])
    torch.save([1, 2], tmp_path / "list.pth")
    for name, line in (
        ("nowhere.pth", "checkpoint not found"),
        ("cut.pth", "cut short"),
        ("cut.pkl", "cut short"),
        ("malicious.pth", "could run code"),
        ("malicious.pkl", "could run code"),
        ("list.pth", "is not a checkpoint"),
    ):
        with pytest.raises(WeightsError, match=line):
            read_checkpoint(tmp_path / name)
    assert "ran" not in capsys.readouterr().out
