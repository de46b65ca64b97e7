from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.engine import AMPTrainer, SimpleTrainer

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


def flip(path: Path, place: int) -> None:
    """Turn one bit of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)


def test_a_flipped_byte_is_told_and_the_newest_whole_checkpoint_is_used(
    model: SCORE, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saver = RunCheckpointer(model, str(tmp_path), keep=3)
    for iteration in (9, 19, 29):
        saver.save(f"model_{iteration:07d}", iteration=iteration)
    for iteration in (19, 29):
        path = tmp_path / f"model_{iteration:07d}.pth"
        flip(path, path.stat().st_size // 2)
    assert read_last(tmp_path)["iteration"] == 9
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert ["model_0000029.pth" in warned[0], "model_0000019.pth" in warned[1]] == [True, True]
    flip(tmp_path / "model_0000009.pth", 5000)
    with pytest.raises(WeightsError, match=r"cannot read .*model_0000029\.pth or any older one"):
        read_last(tmp_path)


def test_any_flipped_byte_is_told_or_changes_nothing(tmp_path: Path) -> None:
    small = {"model": {"weight": torch.arange(64.0)}, "iteration": 9}
    torch.save(small, tmp_path / "model_0000009.pth")
    whole = (tmp_path / "model_0000009.pth").read_bytes()
    told = 0
    for place in range(0, len(whole), 7):
        (tmp_path / "model_0000009.pth").write_bytes(whole)
        (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
        flip(tmp_path / "model_0000009.pth", place)
        try:
            state = read_last(tmp_path)
        except WeightsError:
            told += 1
        else:
            assert state["iteration"] == 9 and torch.equal(state["model"]["weight"], small["model"]["weight"]), place
    assert told > 64 * 4 / 7


def test_a_name_of_a_checkpoint_that_is_gone_leads_to_the_one_before(model: SCORE, tmp_path: Path) -> None:
    RunCheckpointer(model, str(tmp_path)).save("model_0000009", iteration=9)
    (tmp_path / "last_checkpoint").write_text("model_0000019.pth")
    assert read_last(tmp_path)["iteration"] == 9


def test_so_many_checkpoints_are_kept_whatever_run_wrote_them(model: SCORE, tmp_path: Path) -> None:
    for start in (0, 100):  # a run and its resumption
        saver = RunCheckpointer(model, str(tmp_path), keep=2)
        for iteration in range(start, start + 4):
            saver.save(f"model_{iteration:07d}", iteration=iteration)
    saver.save("model_final", iteration=103)
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == [
        "model_0000102.pth",
        "model_0000103.pth",
        "model_final.pth",
    ]
    saver.save("model_0000050", iteration=50)  # one went back; later ones are of a course that was left
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == ["model_0000050.pth"]


def test_what_a_killed_process_left_half_written_goes_with_the_next_checkpoint(model: SCORE, tmp_path: Path) -> None:
    for name in (".model_0000009.pth.4711", "notes.txt"):
        (tmp_path / name).write_text("half a file")
    RunCheckpointer(model, str(tmp_path)).save("model_0000009", iteration=9)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last_checkpoint", "model_0000009.pth", "notes.txt"]


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


@pytest.mark.parametrize("kinds", [(SimpleTrainer, AMPTrainer), (AMPTrainer, SimpleTrainer), (AMPTrainer, AMPTrainer)])
def test_a_run_may_go_on_in_another_precision(
    model: SCORE, tmp_path: Path, kinds: tuple[type[SimpleTrainer], type[SimpleTrainer]]
) -> None:
    first, second = (make(model, kind, scale) for kind, scale in zip(kinds, (512.0, 65536.0), strict=True))
    first.iter = 9
    RunCheckpointer(model, str(tmp_path), trainer=first).save("model_0000009", iteration=9)
    restore(read_last(tmp_path), model, second)
    assert second.iter == 9
    if isinstance(second, AMPTrainer):
        assert second.grad_scaler.get_scale() == (512.0 if isinstance(first, AMPTrainer) else 65536.0)


def make(model: SCORE, kind: type[SimpleTrainer], scale: float) -> SimpleTrainer:
    optimiser = torch.optim.SGD(model.classifier.parameters(), 0.1)
    if kind is AMPTrainer:  # its own choice of scaler is off where there is no GPU
        return AMPTrainer(model, [], optimiser, torch.amp.GradScaler("cpu", init_scale=scale))
    return SimpleTrainer(model, [], optimiser)
