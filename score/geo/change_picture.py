"""A picture of what changed: the dates side by side, objects in colours of what became of them, a legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from score.drawing import PAPER, WHITE
from score.geo.change import APPEARED, GROWN, SAME, SHRUNK, VANISHED
from score.geo.grid import Grid

COLOURS = {  # of Okabe and Ito, told apart by colour-blind people as well
    APPEARED: (0, 190, 140),
    VANISHED: (230, 80, 30),
    GROWN: (245, 225, 60),
    SHRUNK: (90, 180, 240),
    SAME: (225, 225, 225),
}
TINT = 80  # opacity of a changed object, of 255


class Panel(NamedTuple):
    """A date.

    Attributes:
        title: what stands above it.
        pixels: ``[H, W, 3]`` uint8, the ground.
        shapes: polygons ``[N]`` in the CRS of the picture's grid.
        statuses: of each.
    """

    title: str
    pixels: NDArray[np.uint8]
    shapes: Sequence[Any]
    statuses: Sequence[str]


def picture(panels: Sequence[Panel], grid: Grid, counts: Mapping[str, int]) -> Image.Image:
    """Draw dates of the same ground side by side.

    Args:
        panels: the dates, all on the pixels of a grid.
        grid: these pixels.
        counts: what the legend says of each status.
    """
    font = ImageFont.load_default(size=min(28, max(13, grid.width // 40)))
    line = round(1.8 * font.getbbox("Ag")[3])
    gap = max(4, grid.width // 100)
    width = len(panels) * (grid.width + gap) - gap
    whole = Image.new("RGB", (width, grid.height + 2 * line), PAPER)
    paint = ImageDraw.Draw(whole)
    for number, panel in enumerate(panels):
        left = number * (grid.width + gap)
        title = panel.title
        while len(title) > 4 and font.getlength(title) > grid.width - gap:
            title = title[:-2] + "\N{HORIZONTAL ELLIPSIS}"
        paint.text((left + gap, line / 2), title, fill=WHITE, font=font, anchor="lm")
        whole.paste(_panel(panel, grid), (left, line))
    x, y, side = float(gap), whole.height - line / 2, line / 2
    for status, colour in COLOURS.items():
        text = f"{status} {counts.get(status, 0)}"
        paint.rectangle((x, y - side / 2, x + side, y + side / 2), fill=colour)
        paint.text((x + 1.4 * side, y), text, fill=WHITE, font=font, anchor="lm")
        x += 1.4 * side + font.getlength(text) + line
    return whole


def _panel(panel: Panel, grid: Grid) -> Image.Image:
    """One date: what has changed tinted, over what has not."""
    ground = Image.fromarray(panel.pixels).convert("RGBA")
    layer = Image.new("RGBA", ground.size)
    paint = ImageDraw.Draw(layer)
    width = max(2, round(min(ground.size) / 300))
    for status in reversed(COLOURS):
        shapes = [shape for shape, own in zip(panel.shapes, panel.statuses, strict=True) if own == status]
        rings = [
            [tuple(point) for point in grid.pixels(shapely.get_coordinates(ring)).tolist()]
            for ring in shapely.get_rings(shapely.get_parts(shapes))
        ]
        for ring in rings if status != SAME else ():
            paint.polygon(ring, fill=(*COLOURS[status], TINT))
        for ring in rings:
            if status != SAME:
                paint.line(ring, fill=(0, 0, 0, 255), width=width + 2)
            paint.line(ring, fill=(*COLOURS[status], 255), width=width if status != SAME else 1)
    return Image.alpha_composite(ground, layer).convert("RGB")
