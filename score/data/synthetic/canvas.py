"""A canvas for synthetic aerial scenes: textured ground, objects with shadows, exact instance masks.

Everything is drawn at twice the image's size and averaged down, so that edges are smooth; the instance map is drawn
beside the picture, polygon by polygon in the same order, so that occlusion is resolved by construction.

Lengths are in units: at zoom 1 a scene is ``WORLD`` = 192 units wide, whatever the size of the image in pixels. Angles
are in radians, x to the right, y down.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

WORLD = 192.0
SUPERSAMPLE = 2

Colour = tuple[int, int, int]
Point = tuple[float, float]

# How rough each ground is: amplitudes in grey levels of slow noise, of blotches, of grain, and of parallel rows.
ROUGHNESS: dict[str, tuple[float, float, float, float]] = {
    "water": (7, 3, 2, 2.5),
    "shallows": (6, 5, 3, 2),
    "grass": (12, 10, 8, 0),
    "lawn": (5, 5, 5, 0),
    "asphalt": (5, 4, 4, 0),
    "apron": (5, 5, 3, 0),
    "yard": (7, 7, 5, 0),
    "pavement": (5, 5, 5, 0),
    "soil": (10, 9, 7, 0),
    "sand": (7, 6, 6, 0),
    "crop": (9, 6, 5, 9),
    "stubble": (9, 6, 6, 6),
    "meadow": (10, 9, 6, 0),
}
GROUNDS = tuple(ROUGHNESS)


class Canvas:
    """A picture of one scene under construction: first ``lay`` ground, then ``pave``, then draw objects in frames.

    Args:
        rng: the image's own generator; every random choice comes from it.
        size: width and height of the image in pixels.
        zoom: size of objects relative to their nominal size.
        limit: how many instances it takes.
        palette: colour of each ground in ``GROUNDS``.
    """

    def __init__(
        self, *, rng: np.random.Generator, size: int, zoom: float, limit: int, palette: Mapping[str, Colour]
    ) -> None:
        self.rng = rng
        self.limit = limit
        self.size = size
        self.side = size * SUPERSAMPLE
        self.scale = self.side * zoom / WORLD  # canvas pixels a unit
        self.extent = WORLD / zoom  # units across the image
        self.palette = palette
        self.sun = (math.cos(a := rng.uniform(0, 2 * math.pi)), math.sin(a))
        self.categories: list[str] = []
        self._ground = Image.new("L", (self.side, self.side))
        self._ids = Image.new("L", (self.side, self.side))
        self._lay, self._stamp = ImageDraw.Draw(self._ground), ImageDraw.Draw(self._ids)

    # -- ground ----------------------------------------------------------------------------------------------------

    def lay(self, ground: str, points: Sequence[Point], width: float | None = None) -> None:
        """Cover a polygon, or a path of ``width``, with a ground; all in canvas pixels."""
        if width is None:
            self._lay.polygon(points, fill=GROUNDS.index(ground))
        else:
            self._lay.line(points, fill=GROUNDS.index(ground), width=max(1, round(width)), joint="curve")

    def pave(self) -> None:
        """Turn the laid grounds into a textured picture, which ``paint`` draws objects on from here on."""
        rng, side = self.rng, self.side
        ground = np.asarray(self._ground)
        slow = self._noise(5) + 0.5 * self._noise(13)
        blotch = self._noise(48)
        grain = rng.standard_normal((side, side), dtype=np.float32)
        angle, period = rng.uniform(0, math.pi), rng.uniform(3.0, 4.5) * self.scale
        axis = np.arange(side, dtype=np.float32) * (2 * math.pi / period)
        phase = axis[None, :] * math.cos(angle) + axis[:, None] * math.sin(angle) + 1.2 * slow
        layers = (slow, blotch, grain, np.sin(phase))
        amplitudes = np.array([ROUGHNESS[name] for name in GROUNDS], dtype=np.float32)
        shade = sum(amplitudes[:, i][ground] * layer for i, layer in enumerate(layers))
        colours = np.array([self.palette[name] for name in GROUNDS], dtype=np.float32)
        pixels = np.clip(colours[ground] + shade[..., None], 0, 255).astype(np.uint8)
        self._picture = Image.fromarray(pixels)
        self.paint = ImageDraw.Draw(self._picture, "RGBA")  # blends translucent fills

    def _noise(self, cells: int) -> NDArray[np.float32]:
        """Smooth noise of unit variance at its nodes, ``cells`` nodes across."""
        coarse = self.rng.standard_normal((cells, cells), dtype=np.float32)
        return np.asarray(Image.fromarray(coarse).resize((self.side, self.side), Image.Resampling.BICUBIC))

    # -- objects ---------------------------------------------------------------------------------------------------

    def begin(self, category: str) -> int:
        """Open a new instance and return its id; ``stamp`` gives it its pixels."""
        self.categories.append(category)
        return len(self.categories)

    def stamp(self, instance: int, points: Sequence[Point]) -> None:
        """Give a polygon's pixels to an instance, or to none with 0; what was there is occluded."""
        self._stamp.polygon(points, fill=instance)

    def inside(self, point: Point, margin: float = 0.0) -> bool:
        """Whether a canvas point is at least ``margin`` pixels inside the image."""
        return all(margin <= value < self.side - margin for value in point)

    def ground_at(self, point: Point) -> str:
        """The ground under a canvas point inside the image."""
        index: Any = self._ground.getpixel((int(point[0]), int(point[1])))
        return GROUNDS[index]

    def is_free(self, points: Iterable[Point], grounds: Iterable[str], over: Iterable[str] = ()) -> bool:
        """Whether every point within the image lies on one of ``grounds`` and on no instance but those of ``over``."""
        allowed = set(grounds)
        for point in points:
            if not self.inside(point):
                continue
            instance: Any = self._ids.getpixel((int(point[0]), int(point[1])))
            if instance and self.categories[instance - 1] not in over:
                return False
            if not instance and self.ground_at(point) not in allowed:
                return False
        return True

    def finish(self) -> tuple[Image.Image, NDArray[np.uint8]]:
        """The picture and its instance map, ``[size, size]`` uint8, 0 for none, at the image's own size."""
        picture = self._picture.reduce(SUPERSAMPLE)
        ids = np.asarray(self._ids)
        a, b, c, d = ids[::2, ::2], ids[::2, 1::2], ids[1::2, ::2], ids[1::2, 1::2]
        # the id that most of a pixel's four samples have; of two with two samples each, either
        return picture, np.where((b == c) | (b == d), b, np.where(c == d, c, a))


class Frame:
    """A local coordinate system on a canvas: x ahead, y to the right of it, in units."""

    def __init__(self, canvas: Canvas, x: float, y: float, angle: float = 0.0) -> None:
        self.canvas, self.x, self.y, self.angle = canvas, x, y, angle
        self._cos, self._sin = math.cos(angle), math.sin(angle)

    def at(self, x: float, y: float, angle: float = 0.0) -> Frame:
        """A frame at a point of this one, turned by ``angle``."""
        return Frame(self.canvas, *self._world(x, y), self.angle + angle)

    def _world(self, x: float, y: float) -> Point:
        return self.x + self._cos * x - self._sin * y, self.y + self._sin * x + self._cos * y

    def pixels(self, points: Sequence[Point]) -> list[Point]:
        """Local points as canvas pixels."""
        scale = self.canvas.scale
        return [(u * scale, v * scale) for u, v in (self._world(x, y) for x, y in points)]

    def fill(self, points: Sequence[Point], colour: Colour, alpha: int = 255) -> None:
        """Paint a polygon."""
        self.canvas.paint.polygon(self.pixels(points), fill=(*colour, alpha))

    def stroke(self, points: Sequence[Point], colour: Colour, width: float, alpha: int = 255) -> None:
        """Paint a path, ``width`` in units."""
        thickness = max(1, round(width * self.canvas.scale))
        self.canvas.paint.line(self.pixels(points), fill=(*colour, alpha), width=thickness, joint="curve")

    def lay(self, ground: str, points: Sequence[Point]) -> None:
        """Lay a ground under a polygon."""
        self.canvas.lay(ground, self.pixels(points))

    def lay_path(self, ground: str, points: Sequence[Point], width: float) -> None:
        """Lay a ground along a path, ``width`` in units."""
        self.canvas.lay(ground, self.pixels(points), width * self.canvas.scale)

    def shadow(self, outline: Sequence[Point], height: float, alpha: int = 90) -> None:
        """Paint the shadow of a body of ``height`` units: its outline swept away from the sun."""
        dx, dy = (component * height * self.canvas.scale for component in self.canvas.sun)
        foot = self.pixels(outline)
        top = [(x + dx, y + dy) for x, y in foot]
        self.canvas.paint.polygon(convex_hull([*foot, *top]), fill=(12, 16, 28, alpha))

    def lit(self, x: float, y: float) -> float:
        """How much a face looking along local ``(x, y)`` is turned to the sun, -1 to 1."""
        u, v = self._cos * x - self._sin * y, self._sin * x + self._cos * y
        return -(u * self.canvas.sun[0] + v * self.canvas.sun[1])


def box(x0: float, y0: float, x1: float, y1: float) -> list[Point]:
    """An axis-aligned rectangle."""
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def disc(radius: float, x: float = 0.0, y: float = 0.0, ry: float | None = None, corners: int = 28) -> list[Point]:
    """An ellipse (a circle without ``ry``) as a polygon."""
    ry = radius if ry is None else ry
    angles = [2 * math.pi * i / corners for i in range(corners)]
    return [(x + radius * math.cos(a), y + ry * math.sin(a)) for a in angles]


def convex_hull(points: Sequence[Point]) -> list[Point]:
    """The convex hull, by Andrew's monotone chain."""
    ordered = sorted(set(points))
    if len(ordered) < 3:
        return ordered

    def half(sequence: Iterable[Point]) -> list[Point]:
        chain: list[Point] = []
        for p in sequence:
            while len(chain) > 1 and (chain[-1][0] - chain[-2][0]) * (p[1] - chain[-2][1]) <= (
                chain[-1][1] - chain[-2][1]
            ) * (p[0] - chain[-2][0]):
                chain.pop()
            chain.append(p)
        return chain[:-1]

    return half(ordered) + half(reversed(ordered))


def tint(colour: Colour, amount: float) -> Colour:
    """Lighten (amount > 0) or darken a colour by that many grey levels."""
    return tuple(int(min(255, max(0, c + amount))) for c in colour)  # type: ignore[return-value]
