from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from score.data.images import read_image, read_size
from score.errors import DataError


def test_reads_any_mode_as_rgb(tmp_path: Path) -> None:
    Image.new("L", (6, 4), 9).save(tmp_path / "grey.png")
    Image.new("RGBA", (6, 4), (1, 2, 3, 0)).save(tmp_path / "alpha.png")
    assert (read_image(tmp_path / "grey.png") == 9).all()
    pixels = read_image(tmp_path / "alpha.png", (6, 4))
    assert pixels.shape == (4, 6, 3)
    assert pixels.dtype == np.uint8
    assert pixels[0, 0].tolist() == [1, 2, 3]


def test_exif_orientation_turns_the_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise to view
    Image.new("RGB", (6, 4)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (6, 4, 3)
    assert read_size(tmp_path / "turned.jpg") == (4, 6)


def test_missing_image_is_named(tmp_path: Path) -> None:
    for read in (read_image, read_size):
        with pytest.raises(DataError, match=r"gone\.png: no such image"):
            read(tmp_path / "gone.png")


def test_unreadable_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    for read in (read_image, read_size):
        with pytest.raises(DataError, match=r"text\.png: cannot be read as an image") as caught:
            read(tmp_path / "text.png")
        assert "\n" not in str(caught.value)


def test_truncated_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    assert read_size(path) == (64, 64)  # the header is whole
    with pytest.raises(DataError, match=r"cut\.jpg: cannot be read as an image \(.*truncated"):
        read_image(path)


def test_another_size_than_stated(tmp_path: Path) -> None:
    Image.new("RGB", (6, 4)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: the image has 6x4 pixels, its annotations say 4x6; correct"):
        read_image(tmp_path / "a.png", (4, 6))
