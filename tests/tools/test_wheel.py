"""A wheel away from the checkout: commands, Python, and what is told where detectron2 is missing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import score
from tests.tiny_data import tiny_data

ROOT = Path(score.__file__).parents[1]
OWN = "{json: data/instances.json, images: data/images}"
TINY = (
    *("model=small", "backbone=tiny", "scene=tiny", "optim=lite", "paths.cache=null", "optim.iterations=1"),
    *("runtime.workers=0", "runtime.threads=1", "input.train.size=64", "input.test.shortest=64", "output=runs/demo"),
)
[IN_PYTHON] = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a wheel, made from a copy of the checkout, was installed into."""
    checkout, folder = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("installed")
    for name in ("score", "configs", "datasets", "tools"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, checkout], check=True)
    [wheel] = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", folder, wheel], check=True)
    shutil.rmtree(checkout)
    return folder


def run(cwd: Path, installed: Path, *command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "SCORE_DATASETS"}
    environment = {**kept, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1", **settings}
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_a_wheel_works_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    command = str(installed / "bin" / "score")
    told = run(tmp_path, installed, command)
    assert told.returncode == 0 and "Find objects" in told.stdout, told.stderr
    told = run(tmp_path, installed, command, "predict", "--help")
    assert told.returncode == 0 and "vocabulary: ???           # names" in told.stdout, told.stderr
    tiny_data(tmp_path / "data", size=64)
    trained = run(tmp_path, installed, command, "train", *TINY, f"data.train={OWN}", f"data.test=[{OWN}]")
    assert trained.returncode == 0, trained.stderr
    assert "model folder: runs/demo" in trained.stdout
    assert "score train model=small backbone=tiny" in (tmp_path / "runs" / "demo" / "README.md").read_text()
    Image.open(tmp_path / "data" / "images" / "001.png").save(tmp_path / "image.jpg")
    names = "from score.data import catalog; print(score.__file__, 'nwpu' in catalog.register(), result)"
    found = run(tmp_path, installed, "-c", f"{IN_PYTHON}\n{names}")
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith(f"{installed}/score/__init__.py True airplane: ")
    assert (tmp_path / "found.jpg").exists()


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Path]:
    """A folder of links to all that is installed here but detectron2."""
    (tmp_path / "packages").mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if path.suffix != ".pth" and not path.name.startswith(("detectron2", "__editable__", "score")):
            (tmp_path / "packages" / path.name).symlink_to(path)
    return tmp_path / "packages"


def test_without_detectron2_the_command_that_installs_it_is_told(installed: Path, bare: Path, tmp_path: Path) -> None:
    line = f"detectron2 is not installed, and PyPI has none; make and install it with {sys.executable} "
    script = installed / "score" / "tools" / "detectron2_wheel.py"
    both = {"PYTHONPATH": f"{installed}:{bare}"}
    command = (str(installed / "bin" / "score"), "evaluate", "model=run", "data=nwpu_val")
    told = run(tmp_path, installed, "-S", *command, **both)
    assert (told.returncode, told.stderr) == (2, f"error: {line}{script}\n")
    told = run(tmp_path, installed, "-S", "-c", "import score; score.Segmenter", **both)
    assert told.stderr.splitlines()[-1] == f"score.errors.InstallError: {line}{script}"
    assert run(tmp_path, installed, str(script), "--help").returncode == 0
