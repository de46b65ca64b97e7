"""A run that starts from weights which fit in part."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from score.data.synthetic import generate as synthetic
from score.errors import WeightsError
from score.weights.folder import load
from score.weights.start import initialise
from tests.engine.runs import run
from tests.tiny_model import tiny_folder, tiny_model

NAMES = ["ship", "storage_tank"]
HEAD = "sem_seg_head.predictor"


def mask2former(width: int = 96) -> dict[str, np.ndarray]:
    """A few tensors as Mask2Former's checkpoint has them; the small model's decoder is 96 wide."""
    shapes = {
        "backbone.stem.conv1.weight": (8, 3, 7, 7),
        "sem_seg_head.pixel_decoder.transformer.level_embed": (3, width),
        "sem_seg_head.pixel_decoder.input_proj.0.0.weight": (width, 2048, 1, 1),
        f"{HEAD}.static_query.weight": (20, width),
        f"{HEAD}.decoder_norm.weight": (width,),
        f"{HEAD}.class_embed.weight": (81, width),
        f"{HEAD}.class_embed.bias": (81,),
        "criterion.empty_weight": (81,),
    }
    return {name: np.full(shape, 0.5, np.float32) for name, shape in shapes.items()}


def test_what_fits_is_used_and_the_rest_is_said(tmp_path: Path) -> None:
    (tmp_path / "coco.pkl").write_bytes(pickle.dumps({"model": mask2former(), "__author__": "somebody"}))
    model, _ = tiny_model(NAMES)
    before = {name: value.clone() for name, value in model.trainable_state().items()}
    report = initialise(model, tmp_path / "coco.pkl")
    after = model.trainable_state()
    used = {name for name in after if not torch.equal(after[name], before[name])}
    assert used == {"pixel_decoder.level_embed", "mask_decoder.query_feat.weight", "mask_decoder.norm.weight"}
    assert all((after[name] == 0.5).all() for name in used)
    assert report.splitlines()[0].endswith(f"coco.pkl: 3 tensors used, {3 * 96 + 20 * 96 + 96:,} parameters")
    for line in (
        "left    1  backbone of Mask2Former, in whose place the frozen tower stands",
        "left    2  classifier of a closed list of classes",
        "left    1  class weights of the loss, set by the configuration",
        "left    1  pixel_decoder.input_proj: another shape, (96, 2048, 1, 1) for (96, 64, 1, 1)",
        "gca.attention: as initialised",
        "rai.transformer: as initialised",
        "mask_decoder.query_pos: as initialised",
    ):
        assert line in report


def test_weights_that_fit_nowhere_are_refused(tmp_path: Path) -> None:
    torch.save({"model": {k: torch.from_numpy(v) for k, v in mask2former(width=8).items()}}, tmp_path / "other.pth")
    model, _ = tiny_model(NAMES)
    with pytest.raises(WeightsError, match="nothing of it fits this model"):
        initialise(model, tmp_path / "other.pth")
    torch.save({"head.weight": torch.ones(2)}, tmp_path / "classifier.pth")
    with pytest.raises(WeightsError, match="unknown name in the checkpoint: head.weight"):
        initialise(model, tmp_path / "classifier.pth")


def test_a_model_folder_starts_another_model(tmp_path: Path) -> None:
    source = load_file(tiny_folder(tmp_path / "source", NAMES, seed=1) / "model.safetensors")
    model, _ = tiny_model(["plane"], "rai=off", "gca=off")
    report = initialise(model, tmp_path / "source")
    for name, value in model.trainable_state().items():
        assert torch.equal(value, source[name])
    assert "rai.transformer: not in this model" in report and "as initialised" not in report


def test_a_run_starts_from_it_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = tiny_folder(tmp_path / "source", NAMES, seed=1)
    trained = run(tmp_path, f"init={source}", "optim.lr=0", "optim.iterations=1")
    state, start = load_file(trained / "model.safetensors"), load_file(source / "model.safetensors")
    same = [name for name in start if name != "rai.calls"]
    assert same and all(torch.equal(state[name], start[name]) for name in same)
    assert f"started from: {source}" in (trained / "README.md").read_text()
    with pytest.raises(WeightsError, match="checkpoint not found"):
        run(tmp_path, "init=nowhere.pth", f"output={tmp_path}/other")
    assert not (tmp_path / "other").exists()


def test_a_model_of_drawn_scenes_goes_on_with_other_words_and_counts_anew(tmp_path: Path) -> None:
    drawn = synthetic.generate(tmp_path, "synthetic", "train", images=4, size=64, seed=3, workers=1)
    data = [f"data.train.json={drawn}/instances_train.json", f"data.train.images={drawn}/images", "data.test=[]"]
    source = run(tmp_path, *data, f"output={tmp_path}/source", "optim.iterations=3")
    first, _ = load(source)
    assert "swimming pool" in first.train_names and int(first.rai.calls) == 3 * 2  # two heads a step

    settings = [f"init={source}", "data.test=[]", "optim.iterations=2", "optim.checkpoint_period=1", "optim.ema=0.9"]
    still, _ = load(run(tmp_path, *settings, f"output={tmp_path}/still", "optim.lr=0"))
    assert still.train_names == ["ship", "storage_tank", "plane"]
    for name, value in first.trainable_state().items():
        assert name == "rai.calls" or torch.equal(value, still.trainable_state()[name]), name
    assert int(still.rai.calls) == 2 * 2  # the size of the dilation is learned for the new images
    kept, _ = load(run(tmp_path, *settings, f"output={tmp_path}/kept", "rai.gumbel_calls=0"))
    assert int(kept.rai.calls) == 0 and kept.rai.kernel == first.rai.kernel

    whole = run(tmp_path, *settings)
    expected = load_file(whole / "model.safetensors")
    (whole / "checkpoints" / "last_checkpoint").write_text("model_0000000.pth")
    run(tmp_path, *settings, "resume=true")  # from its own checkpoint, not from the start again
    for name, value in load_file(whole / "model.safetensors").items():
        assert torch.equal(value, expected[name]), name
    assert int(expected["rai.calls"]) == 2 * 2
