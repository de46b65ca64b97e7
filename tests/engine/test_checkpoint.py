from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.engine import SimpleTrainer

from score.engine.checkpoint import RunCheckpointer, read_last, restore
from score.errors import OutputError, WeightsError
from score.model.score import SCORE
from tests.tiny_model import tiny_model


@pytest.fixture(scope="module")
def model() -> SCORE:
    return tiny_model(["ship"])[0]


def test_a_checkpoint_holds_what_is_trained_and_no_tower(model: SCORE, tmp_path: Path) -> None:
    RunCheckpointer(model, str(tmp_path)).save("model_0000009", iteration=9)
    state = read_last(tmp_path)
    assert state["iteration"] == 9
    assert state["model"].keys() == model.trainable_state().keys()
    assert not [name for name in state["model"] if name.startswith(("backbone.", "scene."))]


def test_the_last_one_counts(model: SCORE, tmp_path: Path) -> None:
    saver = RunCheckpointer(model, str(tmp_path))
    for iteration in (9, 19):
        saver.save(f"model_{iteration:07d}", iteration=iteration)
    assert read_last(tmp_path)["iteration"] == 19
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "last_checkpoint",
        "model_0000009.pth",
        "model_0000019.pth",
    ]


def test_an_interrupted_write_leaves_the_last_checkpoint_whole(
    model: SCORE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver = RunCheckpointer(model, str(tmp_path))
    saver.save("model_0000009", iteration=9)

    def interrupted(data: object, path: Path) -> None:
        path.write_bytes(b"half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        saver.save("model_0000019", iteration=19)
    assert read_last(tmp_path)["iteration"] == 9
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last_checkpoint", "model_0000009.pth"]


def test_a_full_disk_is_one_line(model: SCORE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(data: object, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match="No space left on device"):
        RunCheckpointer(model, str(tmp_path)).save("model_0000009")
    assert not list(tmp_path.iterdir())


def test_nothing_to_resume_is_said(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nothing to resume"):
        read_last(tmp_path)


def test_a_damaged_checkpoint_is_named(model: SCORE, tmp_path: Path) -> None:
    RunCheckpointer(model, str(tmp_path)).save("model_0000009", iteration=9)
    path = tmp_path / "model_0000009.pth"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=r"cannot read .*model_0000009\.pth"):
        read_last(tmp_path)


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path) -> None:
    class Planted:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "touched",)

    torch.save({"model": Planted()}, tmp_path / "model_0000009.pth")
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    with pytest.raises(WeightsError, match="cannot read"):
        read_last(tmp_path)
    assert not (tmp_path / "touched").exists()


def test_a_checkpoint_of_another_architecture_is_refused(model: SCORE, tmp_path: Path) -> None:
    RunCheckpointer(model, str(tmp_path)).save("model_0000009", iteration=9)
    other, _ = tiny_model(["ship"], "model.decoder_layers=2")
    with pytest.raises(WeightsError, match="another architecture"):
        restore(read_last(tmp_path), other, SimpleTrainer(other, [], torch.optim.SGD(other.classifier.parameters())))
