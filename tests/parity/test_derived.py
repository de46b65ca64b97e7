"""Any recorded case is compared: one image, and synonyms in the vocabulary."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.parity.conftest import Case
from tests.parity.derive import derive


@pytest.mark.slow
def test_a_case_of_one_image_and_synonyms(case: Case, tmp_path: Path) -> None:
    derive(case.folder, tmp_path / "derived")
    tests = [str(Path(__file__).with_name("test_inference.py"))]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        env={**os.environ, "SCORE_PARITY_DIR": str(tmp_path / "derived")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "skipped" not in done.stdout
