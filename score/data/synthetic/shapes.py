"""Drawings of vehicles, ships, tanks and what they need, each a function of a frame at the object's centre.

A drawing heads along x. It first asks whether its place suits it (``claim``: the ground its category belongs on,
nothing in the way), then stamps its instance and paints it. Two shapes serve two classes each, with the same outlines,
sizes and colours, so that only the surroundings tell which it is: ``craft`` is a ship on water and a car on asphalt,
``drum`` a storage tank in a yard and a roundabout on a road.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from score.data.synthetic.canvas import Colour, Frame, Point, box, disc, tint

T = TypeVar("T")

WHITE: Colour = (238, 238, 234)
DARK: Colour = (38, 42, 50)

# The grounds each category may stand on: the context that tells equal shapes apart.
CONTEXT: dict[str, tuple[str, ...]] = {
    "ship": ("water",),
    "sailboat": ("water",),
    "pier": ("water", "shallows"),
    "bridge": ("water", "sand", "meadow", "crop", "stubble", "soil", "asphalt", "pavement"),
    "car": ("asphalt",),
    "truck": ("asphalt",),
    "bus": ("asphalt",),
    "plane": ("apron",),
    "helicopter": ("apron",),
    "storage tank": ("yard",),
    "gas tank": ("yard",),
    "warehouse": ("yard", "pavement"),
    "roundabout": ("asphalt",),
    "tennis court": ("grass", "lawn", "pavement"),
    "basketball court": ("grass", "lawn", "pavement"),
    "soccer field": ("grass", "lawn"),
    "football field": ("grass", "lawn"),
    "swimming pool": ("lawn", "pavement"),
    "house": ("lawn", "grass", "meadow", "stubble", "pavement"),
    "greenhouse": ("soil", "meadow", "crop", "stubble"),
}

CRAFT_COLOURS: tuple[Colour, ...] = (
    (236, 236, 232), (226, 228, 230), (205, 208, 212), (178, 52, 46), (52, 92, 158), (214, 190, 96), (64, 68, 76),
    (110, 146, 120),
)  # fmt: skip
DRUM_COLOURS: tuple[Colour, ...] = ((222, 222, 216), (240, 240, 236), (150, 168, 128), (206, 188, 156), (176, 180, 182))
HULL_COLOURS: tuple[Colour, ...] = ((150, 58, 48), (60, 74, 96), (44, 48, 56), (92, 108, 98), (196, 198, 200))
CARGO_COLOURS: tuple[Colour, ...] = ((186, 70, 52), (66, 112, 158), (206, 168, 70), (98, 138, 96), (198, 198, 196))
PLANE_COLOURS: tuple[Colour, ...] = ((242, 243, 245), (226, 229, 234), (206, 210, 216))
ROOF_COLOURS: tuple[Colour, ...] = ((168, 88, 66), (142, 74, 60), (122, 106, 96), (104, 108, 116), (176, 120, 84))
BUS_COLOURS: tuple[Colour, ...] = ((226, 184, 58), (206, 62, 52), (64, 128, 176), (236, 238, 238), (92, 158, 98))
COURT_COLOURS: tuple[tuple[Colour, Colour], ...] = (
    ((62, 118, 84), (70, 100, 156)), ((58, 112, 78), (172, 92, 66)), ((166, 86, 62), (74, 128, 92)),
    ((178, 98, 68), (190, 108, 76)), ((72, 104, 150), (92, 132, 186)),
)  # fmt: skip


def claim(frame: Frame, category: str, *parts: Sequence[Point], over: Sequence[str] = (), room: float = 1.1) -> int:
    """Open an instance and give it its pixels, if its place suits it and the canvas takes one more.

    Args:
        frame: where it stands; its origin must be inside the image.
        category: what it is; ``CONTEXT`` says on which grounds that may be.
        parts: the outlines it consists of, in units.
        over: categories it may stand on, as a car on a bridge.
        room: how much larger than the object the free place must be.

    Returns:
        The instance id, or 0 where it must not be.
    """
    canvas = frame.canvas
    (centre,) = frame.pixels([(0.0, 0.0)])
    if len(canvas.categories) >= canvas.limit or not canvas.inside(centre, margin=3 * canvas.scale):
        return 0
    probes = [(x * share, y * share) for part in parts for share in (room, 0.7, 0.3) for x, y in along(part)]
    if not canvas.is_free(frame.pixels(probes), CONTEXT[category], over):
        return 0
    instance = canvas.begin(category)
    for part in parts:
        canvas.stamp(instance, frame.pixels(part))
    return instance


def along(outline: Sequence[Point], step: float = 6.0) -> list[Point]:
    """Points along a closed outline: its corners, and between distant ones a point every ``step`` units."""
    points: list[Point] = []
    for (x0, y0), (x1, y1) in zip(outline, [*outline[1:], outline[0]], strict=True):
        parts = max(1, int(math.hypot(x1 - x0, y1 - y0) / step))
        points += [(x0 + (x1 - x0) * i / parts, y0 + (y1 - y0) * i / parts) for i in range(parts)]
    return points


def pick(frame: Frame, options: Sequence[T]) -> T:
    """One of ``options`` by the canvas's generator."""
    return options[int(frame.canvas.rng.integers(len(options)))]


# -- the shape that is a ship or a car ---------------------------------------------------------------------------------


def craft_outline(length: float, width: float) -> list[Point]:
    """A body with a square stern and a rounded bow, shared by ``ship`` and ``car``."""
    profile = ((-0.5, 0.36), (-0.46, 0.46), (-0.38, 0.5), (0.16, 0.5), (0.32, 0.44), (0.43, 0.3), (0.49, 0.12))
    right = [(x * length, y * width) for x, y in profile]
    return right + [(x, -y) for x, y in reversed(right)]


def craft(frame: Frame, category: str, *, over: Sequence[str] = (), moving: bool = False) -> bool:
    """A small ship or a car: body, cabin roof, windscreen, rear window; a wake behind it if ``moving``."""
    rng = frame.canvas.rng
    length = rng.uniform(15, 25)
    width = length * rng.uniform(0.4, 0.5)
    outline = craft_outline(length, width)
    if not claim(frame, category, outline, over=over):
        return False
    if moving:
        wake(frame, length, width)
    colour = pick(frame, CRAFT_COLOURS)
    frame.shadow(outline, 2.2)
    frame.fill(outline, tint(colour, -22))
    frame.fill([(x * 0.93, y * 0.84) for x, y in outline], colour)
    frame.fill(box(-0.28 * length, -0.37 * width, 0.16 * length, 0.37 * width), DARK)  # glass all round
    frame.fill(box(-0.21 * length, -0.31 * width, 0.05 * length, 0.31 * width), tint(colour, 14))  # roof
    return True


def wake(frame: Frame, length: float, width: float) -> None:
    """White water behind and beside a moving ship."""
    stern = -0.45 * length
    transom = [(stern, -0.3 * width), (stern, 0.3 * width)]
    frame.fill([*transom, (stern - 1.6 * length, width), (stern - 1.6 * length, -width)], WHITE, 38)
    frame.fill([*transom, (stern - 0.8 * length, 0)], WHITE, 120)
    for side in (-1, 1):
        frame.stroke([(0.45 * length, 0), (stern - 0.7 * length, side * 1.2 * width)], WHITE, 0.8, 90)


# -- the shape that is a storage tank or a roundabout ------------------------------------------------------------------


def drum(frame: Frame, category: str, radius: float) -> bool:
    """A storage tank or a roundabout: a rim, a disc, a centre."""
    rng = frame.canvas.rng
    outline = disc(radius)
    if not claim(frame, category, outline, room=1.04):
        return False
    colour = pick(frame, DRUM_COLOURS)
    frame.shadow(outline, 2.5 if category == "storage tank" else 0.8)
    frame.fill(outline, tint(colour, 18))
    frame.fill(disc(radius * 0.86), tint(colour, -30))
    frame.fill(disc(radius * 0.8), colour)
    turn = rng.uniform(0, 2 * math.pi)
    frame.stroke([(0, 0), (radius * 0.8 * math.cos(turn), radius * 0.8 * math.sin(turn))], tint(colour, -26), 0.9)
    frame.fill(disc(radius * 0.3), tint(colour, -18))
    frame.fill(disc(radius * 0.2), tint(colour, 16))
    return True


def gas_tank(frame: Frame, radius: float) -> bool:
    """A spherical gas tank: shaded towards the sun, on a ring of legs, with a walkway."""
    outline = disc(radius)
    if not claim(frame, "gas tank", outline, room=1.15):
        return False
    sunward = frame.lit(1, 0), frame.lit(0, 1)
    frame.shadow(disc(radius * 0.9), radius * 0.9, 105)
    frame.fill(outline, (104, 108, 116))
    for step in range(1, 7):
        share = step / 7
        offset = 0.62 * radius * share
        glow = disc(radius * (1 - 0.88 * share), sunward[0] * offset, sunward[1] * offset)
        frame.fill(glow, tint((112, 116, 124), 21 * step))
    frame.stroke([(-radius, 0), (radius, 0)], (150, 84, 60), 1.1)
    frame.fill(disc(radius * 0.14), (150, 84, 60))
    return True


# -- on water ----------------------------------------------------------------------------------------------------------


def vessel(frame: Frame) -> bool:
    """A freighter: hull, deck, hatches or containers, bridge house astern."""
    rng = frame.canvas.rng
    length = rng.uniform(38, 64)
    width = length * rng.uniform(0.2, 0.26)
    profile = ((-0.5, 0.34), (-0.47, 0.47), (-0.38, 0.5), (0.28, 0.5), (0.4, 0.36), (0.47, 0.16), (0.5, 0.02))
    right = [(x * length, y * width) for x, y in profile]
    outline = right + [(x, -y) for x, y in reversed(right)]
    if not claim(frame, "ship", outline):
        return False
    hull = pick(frame, HULL_COLOURS)
    frame.shadow(outline, 3)
    frame.fill(outline, hull)
    frame.fill([(x * 0.96, y * 0.82) for x, y in outline], tint(hull, 46))
    holds = int(rng.integers(3, 6))
    step = 0.58 * length / holds
    for i in range(holds):
        x = -0.24 * length + i * step
        frame.fill(box(x, -0.32 * width, x + 0.78 * step, 0.32 * width), pick(frame, CARGO_COLOURS))
        frame.stroke([(x + 0.39 * step, -0.32 * width), (x + 0.39 * step, 0.32 * width)], DARK, 0.5, 110)
    house = box(-0.42 * length, -0.4 * width, -0.29 * length, 0.4 * width)
    frame.shadow(house, 2.5)
    frame.fill(house, WHITE)
    frame.fill(box(-0.32 * length, -0.34 * width, -0.295 * length, 0.34 * width), DARK)
    return True


def sailboat(frame: Frame) -> bool:
    """A slender pointed hull under a mainsail and a jib."""
    rng = frame.canvas.rng
    length = rng.uniform(24, 38)
    width = length * rng.uniform(0.27, 0.33)
    profile = ((-0.5, 0.24), (-0.3, 0.42), (0.0, 0.5), (0.22, 0.38), (0.4, 0.17), (0.5, 0.0))
    right = [(x * length, y * width) for x, y in profile]
    hull = right + [(x, -y) for x, y in reversed(right)]
    lee = pick(frame, (-1.0, 1.0)) * rng.uniform(0.3, 0.4) * width  # close-hauled: the sails stay over the hull
    main = [(0.12 * length, 0.0), (-0.46 * length, lee), (-0.2 * length, 0.85 * lee)]
    jib = [(0.47 * length, 0.0), (0.08 * length, 0.85 * lee), (0.16 * length, 0.1 * lee)]
    if not claim(frame, "sailboat", hull):
        return False
    frame.shadow(hull, 1.5)
    frame.fill(hull, pick(frame, (WHITE, (44, 62, 96), (128, 48, 44))))
    frame.fill([(x * 0.9 - 0.3, y * 0.72) for x, y in hull], (186, 148, 104))  # teak
    frame.fill(box(-0.34 * length, -0.2 * width, -0.12 * length, 0.2 * width), (92, 70, 52))  # cockpit
    for sail in (main, jib):
        frame.shadow(sail, 5, 60)
        frame.fill(sail, (250, 249, 243))
        frame.stroke([sail[0], sail[1]], (196, 196, 196), 0.6)
    frame.fill(disc(0.7, 0.12 * length, 0), DARK)
    return True


def pier(frame: Frame, length: float, width: float) -> bool:
    """A plank pier from the frame's origin outwards along x."""
    middle = frame.at(length / 2, 0)
    outline = box(-length / 2, -width / 2, length / 2, width / 2)
    if not claim(middle, "pier", outline, room=1.0):
        return False
    colour = pick(frame, ((158, 136, 108), (174, 170, 160), (142, 122, 100)))
    middle.shadow(outline, 2.5)
    middle.fill(outline, colour)
    x = -length / 2
    while x < length / 2:
        middle.stroke([(x, -width / 2), (x, width / 2)], tint(colour, -24), 0.5)
        x += 2.6
    for y in (-width / 2 + 0.6, width / 2 - 0.6):
        middle.stroke([(-length / 2, y), (length / 2, y)], tint(colour, 30), 0.8)
    return True


def bridge(frame: Frame, length: float, width: float) -> bool:
    """A road bridge centred on the frame: deck, railings, dashes."""
    outline = box(-length / 2, -width / 2, length / 2, width / 2)
    if not claim(frame, "bridge", outline, room=1.0):
        return False
    frame.shadow(outline, 4)
    frame.fill(outline, (186, 184, 178))
    frame.fill(box(-length / 2, -width / 2 + 1.8, length / 2, width / 2 - 1.8), (112, 112, 116))
    for y in (-width / 2 + 0.5, width / 2 - 0.5):
        frame.stroke([(-length / 2, y), (length / 2, y)], WHITE, 0.8)
    dashes(frame, -length / 2, length / 2, 0)
    return True


# -- on roads ----------------------------------------------------------------------------------------------------------


def dashes(frame: Frame, x0: float, x1: float, y: float) -> None:
    """A dashed centre line along x."""
    x = x0 + 2
    while x + 4 < x1:
        frame.stroke([(x, y), (x + 4, y)], WHITE, 0.8, 200)
        x += 9


def truck(frame: Frame, *, over: Sequence[str] = ()) -> bool:
    """A cab and a box trailer."""
    rng = frame.canvas.rng
    length = rng.uniform(28, 38)
    width = rng.uniform(9, 11)
    outline = box(-length / 2, -width / 2, length / 2, width / 2)
    if not claim(frame, "truck", outline, over=over):
        return False
    colour = pick(frame, (*CARGO_COLOURS, WHITE, WHITE))
    frame.shadow(outline, 4.5)
    frame.fill(outline, DARK)
    trailer = box(-length / 2, -width / 2, 0.2 * length, width / 2)
    frame.fill(trailer, colour)
    frame.fill(box(-length / 2 + 1, -width / 2 + 1, 0.2 * length - 1, width / 2 - 1), tint(colour, 12))
    frame.fill(box(0.25 * length, -0.45 * width, length / 2, 0.45 * width), pick(frame, CRAFT_COLOURS))
    frame.fill(box(0.4 * length, -0.4 * width, 0.46 * length, 0.4 * width), DARK)
    return True


def bus(frame: Frame, *, over: Sequence[str] = ()) -> bool:
    """A long single body with windows along its sides and hatches on its roof."""
    rng = frame.canvas.rng
    length = rng.uniform(32, 42)
    width = rng.uniform(9, 11)
    h, w = length / 2, width / 2
    outline = [*box(-h, -w + 1, h, w - 1), *box(-h + 1, -w, h - 1, w)]
    outline = [outline[i] for i in (0, 4, 5, 1, 2, 6, 7, 3)]  # a rectangle with its corners cut
    if not claim(frame, "bus", outline, over=over):
        return False
    colour = pick(frame, BUS_COLOURS)
    frame.shadow(outline, 4)
    frame.fill(outline, tint(colour, -36))
    for side in (-1, 1):
        frame.stroke([(-h + 2, side * (w - 0.7)), (h - 3, side * (w - 0.7))], DARK, 1)
    frame.fill(box(-h + 1, -w + 1.4, h - 1.5, w - 1.4), tint(colour, 10))
    frame.fill(box(h - 2.4, -w + 1.2, h - 0.8, w - 1.2), DARK)
    for x in (-0.28, 0.02, 0.28):
        frame.fill(box(x * length - 2, -1.6, x * length + 2, 1.6), tint(colour, -44))
    return True
