"""Pictures of what was found: tinted masks with outlines, a colour a class, labels where they fit, and a legend."""

from __future__ import annotations

import colorsys
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from score.detections import Detection

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

TINT = 0.4  # opacity of a mask
SMALLEST = 480  # a smaller picture is enlarged until its shorter side has so many pixels, or text would not fit
INK, PAPER = (255, 255, 255), (24, 24, 24)


def draw(
    image: NDArray[np.uint8],
    detections: Sequence[Detection],
    names: Sequence[str],
    title: str = "",
    scores: bool = True,
) -> Image.Image:
    """Draw detections on an image, with a legend below it.

    Args:
        image: ``[H, W, 3]`` RGB.
        detections: with masks of the image's size.
        names: the vocabulary; a class keeps its colour in every picture drawn with the same one.
        title: what the legend begins with, such as ``ground truth``.
        scores: write scores on the objects; a label that would hide another one is left out, the worst scores first.

    Returns:
        An RGB picture: the image, enlarged by a whole factor if it is small, and below it the legend with the count of
        each class.
    """
    colours = palette(len(names))
    best_first = sorted(detections, key=lambda item: -item.score)
    factor = max(1, -(-SMALLEST // min(image.shape[:2])))
    line = max(1, round(min(image.shape[:2]) * factor / 500))
    picture = _masks(image, best_first, colours, factor, line)
    font = ImageFont.load_default(size=min(40, max(12, min(picture.size) // 45)))
    if scores:
        _labels(picture, best_first, names, colours, factor, font)
    legend = _legend(picture.width, best_first, names, colours, title, font)
    whole = Image.new("RGB", (picture.width, picture.height + legend.height))
    whole.paste(picture)
    whole.paste(legend, (0, picture.height))
    return whole


def side_by_side(
    image: NDArray[np.uint8],
    truth: Sequence[Detection],
    predictions: Sequence[Detection],
    names: Sequence[str],
) -> Image.Image:
    """Draw ground truth on the left and predictions on the right; arguments as :func:`draw` has them."""
    panels = [
        draw(image, truth, names, title="ground truth", scores=False),
        draw(image, predictions, names, title="prediction"),
    ]
    gap = max(4, panels[0].width // 100)
    size = (panels[0].width + gap + panels[1].width, max(panel.height for panel in panels))
    whole = Image.new("RGB", size, PAPER)
    whole.paste(panels[0])
    whole.paste(panels[1], (panels[0].width + gap, 0))
    return whole


def palette(count: int) -> list[Colour]:
    """Colours for ``count`` classes, neighbours far apart in hue; every third is lighter, every third darker."""
    colours = []
    for index in range(count):
        hue = (0.97 + index * 0.381966) % 1  # the golden angle: never the same hue twice
        saturation, value = ((0.85, 1.0), (0.55, 1.0), (0.95, 0.8))[index % 3]
        red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    return colours


def _masks(
    image: NDArray[np.uint8], best_first: Sequence[Detection], colours: Sequence[Colour], factor: int, line: int
) -> Image.Image:
    """Tint and outline every mask, the best one on top, decoding one mask at a time."""
    height, width = image.shape[:2]
    enlarged = Image.fromarray(image).resize((width * factor, height * factor), Image.Resampling.BICUBIC)
    canvas = np.array(enlarged)
    for item in reversed(best_first):
        x, y, w, h = item.box
        mask = item.mask[y : y + h, x : x + w].repeat(factor, axis=0).repeat(factor, axis=1)
        region = canvas[y * factor : (y + h) * factor, x * factor : (x + w) * factor]
        colour = np.array(colours[item.label])
        region[mask] = ((1 - TINT) * region[mask] + TINT * colour).astype(np.uint8)
        # the outline lies inside the mask, so it never reaches over a neighbour
        outline = mask & ~ndimage.binary_erosion(mask, iterations=line)
        region[outline] = colour
    return Image.fromarray(canvas)


def _labels(
    picture: Image.Image,
    best_first: Sequence[Detection],
    names: Sequence[str],
    colours: Sequence[Colour],
    factor: int,
    font: Font,
) -> None:
    """Write each label beside or on its object, in the picture, where it hides no other label and no small object."""
    paint = ImageDraw.Draw(picture)
    height = round(1.35 * font.getbbox("Ag")[3])
    boxes = [[value * factor for value in item.box] for item in best_first]
    taken: list[Box] = [(x, y, x + w - 1, y + h - 1) for x, y, w, h in boxes if w * h < 40 * height**2]
    for item, (x, y, w, h) in zip(best_first, boxes, strict=True):
        for text in (f"{names[item.label]} {item.score:.2f}", f"{item.score:.2f}"):
            width = font.getlength(text) + height / 2
            left = x + (w - width) / 2
            spots = ((left, y - height), (left, y + h), (left, y + (h - height) / 2))
            places = [_inside(spot, width, height, picture.size) for spot in spots]
            box = next((place for place in places if not _hides(place, taken)), None)
            if box is not None and width <= picture.width:
                taken.append(box)
                paint.rectangle(box, fill=colours[item.label])
                middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
                paint.text(middle, text, fill=_ink(colours[item.label]), font=font, anchor="mm")
                break


def _inside(spot: tuple[float, float], width: float, height: float, size: tuple[int, int]) -> Box:
    left = min(max(spot[0], 0), size[0] - width)
    top = min(max(spot[1], 0), size[1] - height)
    return left, top, left + width - 1, top + height - 1


def _hides(box: Box, taken: Sequence[Box]) -> bool:
    return any(box[0] <= b[2] and b[0] <= box[2] and box[1] <= b[3] and b[1] <= box[3] for b in taken)


def _ink(colour: Colour) -> Colour:
    """Black on a light colour, white on a dark one."""
    red, green, blue = colour
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 120 else INK


def _legend(
    width: int,
    detections: Sequence[Detection],
    names: Sequence[str],
    colours: Sequence[Colour],
    title: str,
    font: Font,
) -> Image.Image:
    """A strip ``width`` wide: the title, and each class that occurs with its colour and count, wrapped into lines."""
    counts = Counter(item.label for item in detections)
    entries: list[tuple[str, Colour | None]] = [(title, None)] if title else []
    entries += [(f"{names[label]} {counts[label]}", colours[label]) for label in sorted(counts)]
    if not counts:
        entries.append(("nothing found" if title != "ground truth" else "nothing annotated", None))
    step = round(1.7 * font.getbbox("Ag")[3])
    square = step // 2
    x = y = square  # y is the middle of a line
    placed = []
    for text, colour in entries:
        needed = round(font.getlength(text) + (1.5 * square if colour else 0))
        if x > square and x + needed + square > width:
            x, y = square, y + step
        placed.append((x, y, text, colour))
        x += needed + step
    strip = Image.new("RGB", (width, y + square), PAPER)
    paint = ImageDraw.Draw(strip)
    for x, y, text, colour in placed:
        if colour:
            paint.rectangle((x, y - square // 2, x + square, y + square - square // 2), fill=colour)
            x += round(1.5 * square)
        paint.text((x, y), text, fill=INK, font=font, anchor="lm")
    return strip
