from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import score
from tests.tiny_model import tiny_folder

TOOL = Path(score.__file__).parent.parent / "tools" / "predict.py"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model") / "model", ["ship", "storage_tank"])


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of two images."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.jpg"):
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(folder / name)
    return folder


def start(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does."""
    command = [sys.executable, str(TOOL), *arguments, "runtime.threads=1"]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_command_writes_pictures_and_predictions(model: Path, images: Path, tmp_path: Path) -> None:
    done = start(
        f"model={model}",
        f"images={images}",
        "vocabulary=[ship,'storage tank','swimming pool']",
        "output=out",
        "score=0",
        "top_k=4",
        "overlap=1",
        "resize.shortest=64",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [item["name"] for item in found["categories"]] == ["ship", "storage tank", "swimming pool"]
    assert [item["file_name"] for item in found["images"]] == ["a.png", "b.jpg"]
    assert len(found["annotations"]) == 8
    assert sorted(path.name for path in (tmp_path / "out" / "pictures").iterdir()) == ["a.jpg", "b.jpg"]
    lines = done.stdout.splitlines()
    assert lines[0].startswith("a.png (80 x 60): ") and lines[-1] == "saved in out"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "out"]  # and nothing else


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("model=nowhere", "error: no such model folder: nowhere; score train makes one"),
        ("images=gone.jpg", "error: gone.jpg: no such image"),
        ("vocabulary=[]", "error: empty vocabulary"),
        ("vocabulary=[ship,Ship]", "error: duplicate class name in the vocabulary: 'ship'"),
        ("output=images/a.png", "error: cannot write to images/a.png"),
        ("score=high", "error: score=high: not a number from 0 to 1"),
        ("scor=0.5", "error: scor: no such setting (did you mean score?)"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_nothing(
    model: Path,
    images: Path,
    tmp_path: Path,
    change: str,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    key, value = change.split("=", 1)
    settings = {"model": model, "images": images, "vocabulary": "[ship]", "output": "out", key: value}
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # the command sets it; this restores it
    monkeypatch.setattr(sys, "argv", [str(TOOL), *(f"{k}={v}" for k, v in settings.items())])
    monkeypatch.syspath_prepend(str(TOOL.parent))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(TOOL), run_name="__main__")
    assert end.value.code == 2
    [error] = capsys.readouterr().err.splitlines()
    assert error.startswith(line)
    assert files(tmp_path) == ["images", "images/a.png", "images/b.jpg"]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
