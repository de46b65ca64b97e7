"""The ways a set-up can fail for a newcomer; that it succeeds is what every other test stands on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout without .venv, as far as the set-up looks at one."""
    (tmp_path / "tools").mkdir()
    for name in ("pyproject.toml", "setup.py", "constraints.txt", "tools/setup.sh", "tools/detectron2_wheel.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def set_up(checkout: Path, **settings: str) -> tuple[int, list[str]]:
    """Run the set-up with `settings` alone and return its exit code and the lines of its stderr."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "TORCH_", "DETECTRON2"))}
    done = subprocess.run(
        [str(checkout / "tools" / "setup.sh")],
        env=kept | {"PYTHON": sys.executable, "PIP_CONFIG_FILE": os.devnull} | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr.splitlines()


def script(path: Path, body: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_too_old_a_python(checkout: Path) -> None:
    old = script(checkout / "python3.8", 'case $1 in -V) echo "Python 3.8.10" ;; *) exit 1 ;; esac')
    message = f"error: Python 3.10 or newer is needed, PYTHON={old} is Python 3.8.10"
    assert set_up(checkout, PYTHON=str(old)) == (2, [message])
    assert not (checkout / ".venv").exists()


def test_no_such_python(checkout: Path) -> None:
    assert set_up(checkout, PYTHON="python9") == (2, ["error: PYTHON=python9: no such command"])


def test_a_python_without_venv(checkout: Path) -> None:
    bare = script(checkout / "python3", 'case "$2" in *ensurepip*) exit 1 ;; *) exit 0 ;; esac')
    code, lines = set_up(checkout, PYTHON=str(bare))
    assert code == 2
    assert len(lines) == 1 and "has no venv module" in lines[0]


def test_an_unknown_detectron2(checkout: Path) -> None:
    assert set_up(checkout, DETECTRON2="0.6") == (2, ["error: DETECTRON2=0.6: neither 'wheel' nor 'git'"])


def test_another_tools_venv_is_left_alone(checkout: Path) -> None:
    (checkout / ".venv" / "bin").mkdir(parents=True)
    code, lines = set_up(checkout)
    assert code == 2
    assert len(lines) == 1 and "was not made by this set-up" in lines[0]
    assert (checkout / ".venv" / "bin").exists()


@pytest.mark.slow
def test_no_disk_then_no_network(checkout: Path) -> None:
    """Both in one, for each needs a virtual environment: the second run goes on with what the first one left."""
    full = script(checkout / "bin" / "df", "printf 'head\\n/dev/x 9 9 1048576 9%% /\\n'").parent
    code, lines = set_up(checkout, PATH=f"{full}:{os.environ['PATH']}")
    assert (code, lines) == (2, [f"error: not enough disk space: {checkout} has 1 GB free, about 8 GB are needed"])

    code, lines = set_up(checkout, PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_RETRIES="0", PIP_NO_CACHE_DIR="1")
    assert code == 2
    assert len(lines) == 1 and lines[0].startswith("error: no network (installing setuptools)")
    assert not (checkout / ".venv" / "score-installed").exists()
