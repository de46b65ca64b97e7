from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.data.transforms import ResizeShortestEdge
from PIL import Image

from score.data.images import read_image, read_size, resized
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


def write_16_bits(path: Path, channels: int) -> Path:
    """11-bit values in 16 bits, as satellites give them; 3 channels or 1."""
    values = np.random.default_rng(0).integers(0, 2041, (64, 64, channels)).astype(np.uint16)
    assert cv2.imwrite(str(path), values)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_a_channel_are_refused_grey_or_colour(tmp_path: Path, name: str, channels: int) -> None:
    path = write_16_bits(tmp_path / name, channels)
    for read in (read_image, read_size, lambda path: read_image(Image.open(path))):
        with pytest.raises(DataError, match=r"a\.\w+: more than 8 bits a channel; scale it to 8-bit RGB first"):
            read(path)
    loaded = Image.open(path)
    loaded.load()
    with pytest.raises(DataError, match="more than 8 bits"):
        read_image(loaded)


@pytest.mark.parametrize("mode", ["I;16", "F", "I"])
def test_a_deep_image_in_memory_is_refused(mode: str) -> None:
    with pytest.raises(DataError, match="a Pillow image: more than 8 bits"):
        read_image(Image.new(mode, (4, 4)))


def test_a_jpeg_2000_of_16_bits_is_refused(tmp_path: Path) -> None:
    path = write_16_bits(tmp_path / "a.jp2", 3)
    with pytest.raises(DataError, match="more than 8 bits"):
        read_image(path)
    Image.new("RGB", (64, 64), (1, 2, 3)).save(path)
    assert read_image(path).shape == (64, 64, 3)


def test_a_pillow_image_is_read_as_its_file_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (6, 9, 3), dtype=np.uint8))
    noise.save(tmp_path / "turned.png", exif=exif)
    noise.quantize(16).save(tmp_path / "palette.png", transparency=3)
    noise.convert("RGBA").save(tmp_path / "alpha.tif")
    noise.convert("CMYK").save(tmp_path / "print.jpg")
    noise.save(tmp_path / "a.webp", lossless=True)
    for path in sorted(tmp_path.iterdir()):
        pixels = read_image(path)
        assert (pixels == read_image(Image.open(path))).all(), path.name
        assert pixels.shape[:2] == read_size(path)[::-1]
        assert read_image(pixels) is pixels
    assert read_image(tmp_path / "turned.png").shape == (9, 6, 3)


def test_an_array_of_another_form_is_refused() -> None:
    for array in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(DataError, match=r"give \[H, W, 3\] uint8 RGB"):
            read_image(array)


def header(path: Path, side: int) -> Path:
    """A PNG that says it is so large, without its pixels."""
    fields = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    Image.new("RGB", (1, 1)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[:12] + fields + struct.pack(">I", zlib.crc32(fields)) + content[33:])
    return path


def test_pillows_limit_is_not_ours_and_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_size(header(tmp_path / "orthophoto.png", 14_000)) == (14_000, 14_000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").shape == (40, 40, 3)
    assert Image.MAX_IMAGE_PIXELS == 50
    header(tmp_path / "a.png", 17_000)
    for read in (read_image, read_size):
        with pytest.raises(DataError, match="too large, 17000x17000 pixels, and at most 268 million .* tiles"):
            read(tmp_path / "a.png")


@pytest.mark.parametrize("size", [(480, 640), (333, 500), (37, 901), (900, 77), (512, 512)])
def test_resizing_is_detectron2s(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    theirs = ResizeShortestEdge([64, 64], 96).get_transform(pixels).apply_image(pixels)
    assert np.array_equal(resized(pixels, 64, 96), theirs)


def test_a_thin_image_keeps_a_pixel() -> None:
    assert resized(np.zeros((1, 20000, 3), dtype=np.uint8), 512, 800).shape == (1, 800, 3)
