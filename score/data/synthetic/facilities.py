"""Drawings of aircraft, buildings, courts and trees; see ``shapes`` for what a drawing does."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from score.data.synthetic.canvas import Colour, Frame, Point, box, disc, tint
from score.data.synthetic.shapes import COURT_COLOURS, DARK, PLANE_COLOURS, ROOF_COLOURS, WHITE, claim, pick

# -- aircraft ----------------------------------------------------------------------------------------------------------


def mirrored(half: Sequence[Point]) -> list[Point]:
    """A closed outline from its right half, given from tail to nose."""
    return [*half, *((x, -y) for x, y in reversed(half))]


def plane(frame: Frame, span: float) -> bool:
    """A jet or a propeller plane, as long as its span: fuselage, wings, tailplane, engines."""
    s = span
    jet = frame.canvas.rng.random() < 0.65
    fuselage = mirrored(
        [(-0.5, 0.012), (-0.4, 0.04), (-0.2, 0.062), (0.3, 0.062), (0.42, 0.048), (0.48, 0.024), (0.5, 0.0)]
    )
    if jet:
        wings = mirrored([(-0.06, 0.0), (-0.06, 0.08), (-0.2, 0.49), (-0.13, 0.5), (0.14, 0.08), (0.16, 0.0)])
        tail = mirrored([(-0.47, 0.0), (-0.5, 0.19), (-0.45, 0.2), (-0.33, 0.03), (-0.33, 0.0)])
        engines = [box(-0.02, y - 0.024, 0.11, y + 0.024) for y in (0.2, -0.2)]
    else:
        wings = mirrored([(0.02, 0.0), (0.04, 0.48), (0.08, 0.5), (0.17, 0.48), (0.19, 0.0)])
        tail = mirrored([(-0.49, 0.0), (-0.48, 0.18), (-0.37, 0.18), (-0.35, 0.0)])
        engines = [box(0.49, -0.1, 0.51, 0.1)]
    parts = [[(x * s, y * s) for x, y in part] for part in (engines[0], engines[-1], wings, tail, fuselage)]
    if not claim(frame, "plane", *parts):
        return False
    colour = pick(frame, PLANE_COLOURS)
    for part in parts:
        frame.shadow(part, 2.8, 70)
    for part, shade in zip(parts, (-96, -96, -26, -22, 0), strict=True):
        frame.fill(part, tint(colour, shade))
    stripe = pick(frame, ((176, 44, 48), (44, 82, 150), (58, 66, 82)))
    frame.fill([(x * s, y * s) for x, y in ((-0.49, -0.012), (-0.49, 0.012), (-0.3, 0.016), (-0.3, -0.016))], stripe)
    frame.stroke([(-0.28 * s, 0), (0.38 * s, 0)], WHITE, 0.05 * s, 200)
    frame.fill([(x * s, y * s) for x, y in ((0.4, -0.035), (0.4, 0.035), (0.44, 0.025), (0.44, -0.025))], DARK)
    return True


def helicopter(frame: Frame, length: float) -> bool:
    """A cabin, a tail boom with its rotor, four thin blades over them (no part of the mask); often on a painted pad."""
    s, rng = length, frame.canvas.rng
    cabin = disc(0.24 * s, 0.12 * s, 0, ry=0.15 * s)
    boom = [(0.0, -0.09 * s), (0.0, 0.09 * s), (-0.5 * s, 0.03 * s), (-0.5 * s, -0.03 * s)]
    fin = box(-0.52 * s, -0.13 * s, -0.44 * s, 0.13 * s)
    turn = rng.uniform(0, math.pi / 2)
    tips = [(0.1 * s + 0.4 * s * math.cos(turn + i), 0.4 * s * math.sin(turn + i)) for i in np.arange(4) * math.pi / 2]
    if not claim(frame, "helicopter", cabin, boom, fin):
        return False
    if rng.random() < 0.5:
        pad = 0.58 * s
        frame.stroke([*disc(pad), (pad, 0)], WHITE, 1.1, 170)
    colour = pick(frame, (WHITE, (206, 210, 216), (52, 84, 140), (186, 60, 50), (224, 188, 70), (92, 104, 82)))
    for part, shade in ((boom, -18), (fin, -40), (cabin, 0)):
        frame.shadow(part, 2.5, 70)
        frame.fill(part, tint(colour, shade))
    frame.fill(disc(0.1 * s, 0.25 * s, 0, ry=0.11 * s), DARK)  # windscreen
    frame.fill(disc(0.12 * s, 0.08 * s, 0, ry=0.08 * s), tint(colour, 24))
    for tip in tips:
        frame.stroke([(0.1 * s, 0), tip], (70, 72, 78), 1.0, 150)
    frame.fill(disc(0.035 * s, 0.1 * s), DARK)
    return True


# -- buildings ---------------------------------------------------------------------------------------------------------


def gable(frame: Frame, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
    """A roof with its ridge along x, the side towards the sun lit."""
    middle = (y0 + y1) / 2
    for edge, normal in ((y0, -1.0), (y1, 1.0)):
        frame.fill(box(x0, min(edge, middle), x1, max(edge, middle)), tint(colour, 34 * frame.lit(0, normal)))
        for share in (0.33, 0.66):  # courses of tiles
            y = middle + share * (edge - middle)
            frame.stroke([(x0, y), (x1, y)], tint(colour, 34 * frame.lit(0, normal) - 14), 0.4)
    frame.stroke([(x0, middle), (x1, middle)], tint(colour, 52), 0.7)


def house(frame: Frame, snow: float = 0.0) -> bool:
    """A gable roof, in half of the cases with a wing, a chimney on it.

    Args:
        frame: its place; the ridge runs along x.
        snow: 0 for a bare roof to 1 for a white one.
    """
    rng = frame.canvas.rng
    a, b = rng.uniform(10, 14), rng.uniform(7, 9.5)
    main = box(-a, -b, a, b)
    wing = box(0.1 * a, 0, 0.85 * a, b + rng.uniform(4, 7)) if rng.random() < 0.5 else None
    if not claim(frame, "house", main, *([wing] if wing else [])):
        return False
    bare = pick(frame, ROOF_COLOURS)
    colour: Colour = tuple(int(c + snow * (e - c)) for c, e in zip(bare, (226, 230, 236), strict=True))  # type: ignore[assignment]
    frame.shadow(main, 6)
    if wing:
        frame.shadow(wing, 6)
        turned = frame.at(0, 0, math.pi / 2)
        gable(turned, 0, -0.85 * a, wing[2][1], -0.1 * a, colour)
    gable(frame, -a, -b, a, b, colour)
    frame.fill(box(-0.5 * a - 1, 0.3 * b - 1, -0.5 * a + 1, 0.3 * b + 1), (92, 66, 58))
    return True


def warehouse(frame: Frame, length: float, width: float) -> bool:
    """A large flat roof with ribs, rows of skylights and vents."""
    h, w = length / 2, width / 2
    outline = box(-h, -w, h, w)
    if not claim(frame, "warehouse", outline, room=1.05):
        return False
    colour = pick(frame, ((198, 202, 206), (182, 178, 170), (150, 164, 178), (214, 212, 204)))
    frame.shadow(outline, 8)
    frame.fill(outline, tint(colour, -34))
    frame.fill(box(-h + 1, -w + 1, h - 1, w - 1), colour)
    frame.fill(box(-h + 1, 0, h - 1, w - 1), tint(colour, 12 * frame.lit(0, 1)))
    for x in range(int(-h) + 4, int(h) - 2, 4):
        frame.stroke([(x, -w + 1), (x, w - 1)], tint(colour, -12), 0.5)
    for x in range(int(-h) + 7, int(h) - 6, 12):
        for y in (-0.5 * w, 0.5 * w):
            frame.fill(box(x, y - 1.2, x + 5, y + 1.2), (226, 238, 242))
    frame.fill(box(-0.6 * h, -2, -0.6 * h + 4, 2), (120, 122, 124))
    return True


def greenhouse(frame: Frame, spans: int, length: float) -> bool:
    """Parallel glass roofs with ridges and ribs, the beds showing through."""
    pitch = 6.5
    h, w = length / 2, spans * pitch / 2
    outline = box(-h, -w, h, w)
    if not claim(frame, "greenhouse", outline, room=1.06):
        return False
    frame.shadow(outline, 4)
    frame.fill(outline, (206, 226, 224))
    for i in range(spans):
        y = -w + i * pitch
        frame.fill(box(-h + 1, y + 0.7, h - 1, y + pitch / 2), tint((176, 206, 196), 22 * frame.lit(0, -1)))
        frame.fill(box(-h + 1, y + pitch / 2, h - 1, y + pitch - 0.7), tint((176, 206, 196), 22 * frame.lit(0, 1)))
        frame.stroke([(-h + 2, y + pitch / 2), (h - 2, y + pitch / 2)], (112, 152, 108), 1.8, 120)
        frame.stroke([(-h, y), (h, y)], WHITE, 0.8)
    x = -h
    while x <= h:
        frame.stroke([(x, -w), (x, w)], WHITE, 0.5, 190)
        x += 4.2
    return True


# -- courts and pools --------------------------------------------------------------------------------------------------


def tennis_court(frame: Frame) -> bool:
    """A double court with its run-off, net and lines."""
    h, w = 20.0, 10.5
    outline = box(-h, -w, h, w)
    if not claim(frame, "tennis court", outline, room=1.04):
        return False
    outer, inner = pick(frame, COURT_COLOURS)
    frame.fill(outline, outer)
    frame.fill(box(-13, -6, 13, 6), inner)
    for path in (
        [*box(-13, -6, 13, 6), (-13, -6)], [(-13, -4.4), (13, -4.4)], [(-13, 4.4), (13, 4.4)],
        [(-7, -4.4), (-7, 4.4)], [(7, -4.4), (7, 4.4)], [(-7, 0), (7, 0)],
    ):  # fmt: skip
        frame.stroke(path, WHITE, 0.7)
    frame.stroke([(0, -7), (0, 7)], DARK, 0.8)
    return True


def basketball_court(frame: Frame) -> bool:
    """A court with keys, three-point arcs and a centre circle."""
    h, w = 20.0, 11.5
    outline = box(-h, -w, h, w)
    if not claim(frame, "basketball court", outline, room=1.04):
        return False
    outer, inner = pick(frame, COURT_COLOURS)
    frame.fill(outline, outer)
    frame.fill(box(-17.5, -9.5, 17.5, 9.5), inner)
    frame.stroke([*box(-17.5, -9.5, 17.5, 9.5), (-17.5, -9.5)], WHITE, 0.8)
    frame.stroke([(0, -9.5), (0, 9.5)], WHITE, 0.8)
    frame.stroke([*disc(3.4), (3.4, 0)], WHITE, 0.8)
    for side in (-1, 1):
        frame.fill(box(min(side * 17.5, side * 10.5), -3, max(side * 17.5, side * 10.5), 3), outer)
        frame.stroke([*box(side * 17.5, -3, side * 10.5, 3), (side * 17.5, -3)], WHITE, 0.8)
        turns = [math.pi * (i / 10 - 0.5) for i in range(11)]
        frame.stroke([(side * (16 - 8 * math.cos(t)), 8 * math.sin(t)) for t in turns], WHITE, 0.8)
        frame.fill(box(side * 16.6 - 0.5, -1.4, side * 16.6 + 0.5, 1.4), WHITE)
    return True


def soccer_field(frame: Frame, length: float) -> bool:
    """A mown pitch with touch lines, boxes, centre circle and goals."""
    h, w = length / 2, length * 0.32
    outline = box(-h, -w, h, w)
    if not claim(frame, "soccer field", outline, room=1.02):
        return False
    colour = pick(frame, ((84, 138, 70), (70, 124, 66), (98, 146, 78)))
    for i in range(10):
        stripe = box(-h + i * h / 5, -w, -h + (i + 1) * h / 5, w)
        frame.fill(stripe, tint(colour, 9 if i % 2 else -7))
    frame.stroke([*box(-h + 2, -w + 2, h - 2, w - 2), (-h + 2, -w + 2)], WHITE, 1.0)
    frame.stroke([(0, -w + 2), (0, w - 2)], WHITE, 0.9)
    frame.stroke([*disc(0.13 * length), (0.13 * length, 0)], WHITE, 0.9)
    for side in (-1, 1):
        for depth, half in ((0.16 * length, 0.55 * w), (0.06 * length, 0.28 * w)):
            edge = side * (h - 2)
            inner = edge - side * depth
            frame.stroke([(edge, -half), (inner, -half), (inner, half), (edge, half)], WHITE, 0.8)
        frame.fill(box(side * (h - 1) - 0.9, -3, side * (h - 1) + 0.9, 3), WHITE)
    return True


def football_field(frame: Frame, length: float) -> bool:
    """A gridiron: yard lines across it from end to end, and two painted end zones."""
    h, w = length / 2, length * 0.27
    if not claim(frame, "football field", box(-h, -w, h, w), room=1.02):
        return False
    frame.fill(box(-h, -w, h, w), pick(frame, ((84, 138, 70), (70, 124, 66), (98, 146, 78))))
    zone = pick(frame, ((150, 52, 44), (48, 70, 132), (190, 160, 60)))
    for side in (-1, 1):
        frame.fill(box(side * h * 0.9 - 0.1 * h, -w, side * h * 0.9 + 0.1 * h, w), zone)
    for yard in range(-8, 9):
        frame.stroke([(yard * h / 10, -w + 2), (yard * h / 10, w - 2)], WHITE, 0.8)
    frame.stroke([*box(-h + 1, -w + 1, h - 1, w - 1), (-h + 1, -w + 1)], WHITE, 1.1)
    return True


def swimming_pool(frame: Frame, length: float) -> bool:
    """A rectangular or oval pool with a pale coping; the long ones have lanes."""
    h, w = length / 2, length * 0.27
    oval = length < 24 and frame.canvas.rng.random() < 0.45
    outline = disc(h, 0, 0, ry=w * 1.15) if oval else box(-h, -w, h, w)
    if not claim(frame, "swimming pool", outline, room=1.15):
        return False
    frame.fill(outline, (224, 218, 206))
    basin = [(x * (h - 1.4) / h, y * (w - 1.4) / w) for x, y in outline]
    frame.fill(basin, (62, 172, 204))
    frame.fill([(x * 0.6 + 0.22 * h, y * 0.6) for x, y in basin], (44, 148, 194))
    if length > 30:
        for i in range(1, 5):
            y = -w + i * 2 * w / 5
            frame.stroke([(-h + 2, y), (h - 2, y)], (206, 236, 240), 0.6)
    return True


# -- what is not an object ---------------------------------------------------------------------------------------------


def tree(frame: Frame, radius: float, colour: Colour) -> None:
    """A crown of leaves; it hides what it overhangs."""
    rng = frame.canvas.rng
    lobes = radius * rng.uniform(0.82, 1.12, 11)
    crown = [(r * math.cos(2 * math.pi * i / 11), r * math.sin(2 * math.pi * i / 11)) for i, r in enumerate(lobes)]
    frame.shadow(crown, radius * 0.8, 80)
    frame.canvas.stamp(0, frame.pixels(crown))
    frame.fill(crown, tint(colour, -20))
    east, south = frame.lit(1, 0), frame.lit(0, 1)
    for share, offset, shade in ((0.72, 0.2, 0), (0.36, 0.34, 20)):  # lit leaves lie towards the sun
        dx, dy = offset * radius * east, offset * radius * south
        frame.fill([(x * share + dx, y * share + dy) for x, y in crown], tint(colour, shade))
