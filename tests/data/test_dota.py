from __future__ import annotations

from pathlib import Path

import pytest

from score.data.dota import read_dota
from score.errors import DataError


def test_labels_are_read(tmp_path: Path) -> None:
    path = tmp_path / "P0001.txt"
    path.write_text(
        "imagesource:GoogleEarth\ngsd:0.146\n"
        "10.0 11 50 11.5 50 31 10 31 small-vehicle 0\n\n1 2 3 2 3 4 1 4 plane 1\n1 2 3 2 3 4 1 4 ship\n"
    )
    objects = read_dota(path)
    assert [(item.name, item.difficult) for item in objects] == [
        ("small-vehicle", False),
        ("plane", True),
        ("ship", False),
    ]
    assert objects[0].corners.tolist() == [[10, 11], [50, 11.5], [50, 31], [10, 31]]
    path.write_text("")
    assert read_dota(path) == []


@pytest.mark.parametrize(
    "line",
    ["1 2 3 4 plane 0", "1 2 3 4 5 6 7 eight plane 0", "1 2 3 4 5 6 7 8", "1 2 3 4 5 6 7 nan plane 0",
     "1 2 3 4 5 6 7 8 plane hard", "1 2 3 4 5 6 7 8 plane 0 0"],
)  # fmt: skip
def test_a_malformed_line_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "P0002.txt"
    path.write_text(f"gsd:0.1\n1 2 3 2 3 4 1 4 plane 1\n{line}\n")
    with pytest.raises(DataError, match=r"P0002\.txt, line 3: ") as caught:
        read_dota(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing"):
        read_dota(tmp_path / "missing.txt")
