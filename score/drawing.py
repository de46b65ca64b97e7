"""Pictures of what was found: tinted masks with outlines, a colour a class, labels where they fit, and a legend."""

from __future__ import annotations

import colorsys
import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from score import masks
from score.detections import Detection

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

TINT = 0.4  # opacity of a mask
COVER = 0.3  # of an object, at most, lies under its own label
SMALLEST = 480  # a smaller picture is enlarged until its shorter side has so many pixels, or text would not fit
LONGEST = 8192  # pixels that no side is enlarged to more than
BLACK, WHITE, PAPER = (0, 0, 0), (255, 255, 255), (24, 24, 24)


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
        detections: in pixels of the image; of overlapping ones the smaller lies on top.
        names: the vocabulary; a class keeps its colour in every picture drawn with the same one.
        title: what the legend begins with, such as ``ground truth``.
        scores: write names and scores at the objects, as :func:`labels` finds room for them.

    Returns:
        An RGB picture: the image, enlarged by a whole factor if it is small, and below it the legend with the count of
        each class that can be seen.
    """
    colours = palette(len(names))
    factor = enlargement(image.shape)
    picture, owner = _masks(image, detections, colours, factor)
    font = lettering(picture.size)
    if scores:
        paint = ImageDraw.Draw(picture)
        for (left, top, right, bottom), text, colour in labels(owner, detections, names, factor, font):
            paint.rectangle((left, top, right - 1, bottom - 1), fill=colour)
            paint.text(((left + right) / 2, (top + bottom) / 2), text, fill=ink(colour), font=font, anchor="mm")
    shown = [detections[index] for index in np.unique(owner[owner >= 0])]
    counts = Counter(item.label for item in shown)
    return below(picture, legend(picture.width, counts, names, font, title))


def lettering(size: tuple[int, int]) -> Font:
    """The font for a picture of a size."""
    return ImageFont.load_default(size=min(40, max(12, min(size) // 45)))


def enlargement(shape: Sequence[int]) -> int:
    """How many times as large an image ``[H, W, ...]`` is drawn, that text fits, and no format of pictures ends."""
    sides = shape[:2]
    return max(1, min(-(-SMALLEST // min(sides)), LONGEST // max(sides)))


def below(picture: Image.Image, strip: Image.Image) -> Image.Image:
    """A picture, and under it another of its width."""
    whole = Image.new("RGB", (picture.width, picture.height + strip.height))
    whole.paste(picture)
    whole.paste(strip, (0, picture.height))
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
    """Colours for ``count`` classes, each as far from those before it as it can be; after 108 they come again."""
    distinct = _distinct()
    return [distinct[index % len(distinct)] for index in range(count)]


@functools.cache
def _distinct() -> list[Colour]:
    tones = ((0.85, 1.0), (0.45, 1.0), (0.95, 0.65))  # saturation and value
    rgb = np.array([colorsys.hsv_to_rgb(hue / 36, *tone) for tone in tones for hue in range(36)], dtype=np.float32)
    lab = cv2.cvtColor(rgb[None], cv2.COLOR_RGB2LAB)[0]  # where distances are as they are seen
    order, nearest = [35], np.full(len(lab), np.inf)  # the first one is a red
    while len(order) < len(lab):
        nearest = np.minimum(nearest, np.linalg.norm(lab - lab[order[-1]], axis=1))
        order.append(int(nearest.argmax()))
    return [(round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in rgb[order].tolist()]


def ink(colour: Colour) -> Colour:
    """Black or white, whichever is told apart from a colour more easily; the contrast is never below WCAG's 4.5 : 1."""
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in np.array(colour) / 255
    ]
    luminance = np.dot((0.2126, 0.7152, 0.0722), linear)
    return BLACK if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else WHITE


class Label(NamedTuple):
    """Text at an object; ``left, top, right, bottom`` in pixels of the enlarged picture, the latter two exclusive."""

    box: tuple[int, int, int, int]
    text: str
    colour: Colour


def labels(
    owner: NDArray[np.int32], detections: Sequence[Detection], names: Sequence[str], factor: int, font: Font
) -> list[Label]:
    """Find a place for the name and score of each object, or for its score alone, the best scores first.

    A label lies at what is seen of its object: over its upper end, or else under, inside, or beside it. It covers no
    other object, no other label, and not much of its own object. One that finds no such place is left out.

    Args:
        owner: ``[H, W]``, which detection is seen at each pixel, -1 for none.
        detections: what is drawn.
        names: the vocabulary.
        factor: pixels of the picture for one of the image.
        font: of the text.
    """
    colours, placed = palette(len(names)), list[Label]()
    height = round(1.35 * font.getbbox("Ag")[3])
    limits = owner.shape[1] * factor, owner.shape[0] * factor

    def fits(index: int, box: tuple[int, int, int, int], area: int) -> bool:
        left, top, right, bottom = box
        if any(left < b[2] and b[0] < right and top < b[3] and b[1] < bottom for b, *_ in placed):
            return False
        under = owner[top // factor : -(-bottom // factor), left // factor : -(-right // factor)]
        return not ((under >= 0) & (under != index)).any() and (under == index).sum() <= COVER * area

    for index in sorted(range(len(detections)), key=lambda index: -detections[index].score):
        item = detections[index]
        (rows, columns), _ = masks.part(item.rle)
        seen = owner[rows, columns] == index
        for text in (f"{names[item.label]} {item.score:.2f}", f"{item.score:.2f}") if seen.any() else ():
            width = round(font.getlength(text) + height / 2)
            if width > limits[0] or height > limits[1]:
                continue
            boxes = (
                (left, top, left + width, top + height)
                for x, y in _spots(seen, (width, height), factor)
                for left in [min(max(x + columns.start * factor, 0), limits[0] - width)]
                for top in [min(max(y + rows.start * factor, 0), limits[1] - height)]
            )
            box = next((box for box in boxes if fits(index, box, int(seen.sum()))), None)
            if box:
                placed.append(Label(box, text, colours[item.label]))
                break
    return placed


def _spots(seen: NDArray[np.bool_], size: tuple[int, int], factor: int) -> Iterator[tuple[int, int]]:
    """Where a label of a size may begin, in pixels of the picture from the corner of the region seen, best first."""
    width, height = size
    y, x = np.nonzero(seen)
    middle_of_top, middle_of_bottom = x[y == y.min()].mean() + 0.5, x[y == y.max()].mean() + 0.5
    yield round(middle_of_top * factor - width / 2), int(y.min()) * factor - height
    yield round(middle_of_bottom * factor - width / 2), int(y.max() + 1) * factor
    depth = ndimage.distance_transform_edt(np.pad(seen, 1))[1:-1, 1:-1]
    deepest_y, deepest_x = np.unravel_index(int(depth.argmax()), depth.shape)
    yield round((deepest_x + 0.5) * factor - width / 2), round((deepest_y + 0.5) * factor - height / 2)
    middle_of_right, middle_of_left = y[x == x.max()].mean() + 0.5, y[x == x.min()].mean() + 0.5
    yield int(x.max() + 1) * factor, round(middle_of_right * factor - height / 2)
    yield int(x.min()) * factor - width, round(middle_of_left * factor - height / 2)


def _masks(
    image: NDArray[np.uint8], detections: Sequence[Detection], colours: Sequence[Colour], factor: int
) -> tuple[Image.Image, NDArray[np.int32]]:
    """Tint and outline every mask, smaller ones over larger ones, decoding one at a time.

    Returns:
        The enlarged picture, and ``[H, W]``: which detection is seen at each pixel, -1 for none.
    """
    height, width = image.shape[:2]
    line = max(1, round(min(height, width) * factor / 500))
    canvas = np.array(Image.fromarray(image).resize((width * factor, height * factor), Image.Resampling.BICUBIC))
    owner = np.full((height, width), -1, dtype=np.int32)
    for index in sorted(range(len(detections)), key=lambda index: (-detections[index].area, detections[index].score)):
        (rows, columns), mask = masks.part(detections[index].rle)
        owner[rows, columns][mask] = index
        mask = mask.repeat(factor, axis=0).repeat(factor, axis=1)
        region = canvas[rows.start * factor : rows.stop * factor, columns.start * factor : columns.stop * factor]
        colour = np.array(colours[detections[index].label])
        region[mask] = ((1 - TINT) * region[mask] + TINT * colour).astype(np.uint8)
        # the outline lies inside the mask, so it never reaches over a neighbour
        outline = mask & ~ndimage.binary_erosion(mask, iterations=line)
        region[outline] = colour
    return Image.fromarray(canvas), owner


def legend(width: int, counts: Mapping[int, int], names: Sequence[str], font: Font, title: str = "") -> Image.Image:
    """A strip ``width`` wide: the title, and each class that occurs with its colour and count, wrapped into lines.

    Args:
        width: in pixels.
        counts: of each class that occurs, by its position in the vocabulary.
        names: the vocabulary.
        font: of the text.
        title: what it begins with.
    """
    colours = palette(len(names))
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
        paint.text((x, y), text, fill=WHITE, font=font, anchor="lm")
    return strip
