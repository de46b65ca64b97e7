"""The scenes of the synthetic set: which grounds a place consists of, and which objects stand on them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from score.data import facilities as fac
from score.data import shapes
from score.data.canvas import Canvas, Colour, Frame, box, disc, tint


@dataclass(frozen=True)
class Theme:
    """A season and region: colours, snow on roofs, how near the camera is, how often novel classes replace their kin.

    Attributes:
        grounds: colour of each ground of ``canvas.GROUNDS``.
        leaves: colours of trees.
        snow: share of snow on roofs, 0 to 1.
        zoom: range of the size of objects.
        novel: probability that an object's novel kin is drawn in its place.
    """

    grounds: dict[str, Colour]
    leaves: tuple[Colour, ...]
    snow: float
    zoom: tuple[float, float]
    novel: float


GROUND_NAMES = ("water", "shallows", "grass", "lawn", "asphalt", "apron", "yard", "pavement", "soil", "sand", "crop", "stubble", "meadow")  # fmt: skip

SUMMER = Theme(
    grounds={
        "water": (38, 76, 98), "shallows": (74, 116, 122), "grass": (92, 112, 64), "lawn": (98, 128, 70),
        "asphalt": (92, 92, 96), "apron": (156, 156, 152), "yard": (150, 142, 128), "pavement": (172, 168, 160),
        "soil": (134, 108, 82), "sand": (190, 172, 136), "crop": (104, 124, 62), "stubble": (176, 158, 104),
        "meadow": (112, 132, 76),
    },
    leaves=((50, 82, 42), (62, 92, 48), (44, 72, 44)), snow=0.0, zoom=(0.85, 1.2), novel=0.0,
)  # fmt: skip
WINTER = Theme(
    grounds={
        "water": (48, 62, 76), "shallows": (118, 134, 142), "grass": (206, 210, 216), "lawn": (218, 222, 226),
        "asphalt": (104, 106, 112), "apron": (168, 172, 178), "yard": (176, 176, 178), "pavement": (190, 192, 196),
        "soil": (172, 162, 152), "sand": (202, 200, 196), "crop": (194, 194, 192), "stubble": (206, 202, 190),
        "meadow": (212, 214, 216),
    },
    leaves=((72, 84, 76), (88, 82, 76), (108, 104, 100)), snow=0.7, zoom=(1.0, 1.5), novel=0.6,
)  # fmt: skip
ARID = Theme(
    grounds={
        "water": (42, 104, 112), "shallows": (104, 150, 142), "grass": (188, 160, 116), "lawn": (174, 154, 108),
        "asphalt": (116, 110, 104), "apron": (182, 172, 156), "yard": (186, 164, 130), "pavement": (202, 190, 168),
        "soil": (176, 132, 92), "sand": (214, 192, 150), "crop": (136, 140, 82), "stubble": (204, 176, 122),
        "meadow": (178, 158, 106),
    },
    leaves=((88, 98, 58), (104, 106, 66)), snow=0.0, zoom=(1.0, 1.5), novel=0.6,
)  # fmt: skip
AUTUMN = Theme(
    grounds={
        "water": (58, 74, 72), "shallows": (104, 108, 92), "grass": (142, 124, 74), "lawn": (146, 134, 78),
        "asphalt": (82, 80, 82), "apron": (146, 142, 138), "yard": (142, 126, 112), "pavement": (164, 154, 142),
        "soil": (112, 84, 62), "sand": (182, 160, 124), "crop": (156, 122, 66), "stubble": (186, 150, 88),
        "meadow": (154, 138, 80),
    },
    leaves=((176, 100, 44), (188, 136, 52), (142, 70, 44), (112, 92, 54)), snow=0.0, zoom=(1.0, 1.5), novel=0.6,
)  # fmt: skip


class Site:
    """A scene's working place: its canvas, theme, generator, and a frame at a random heading in the middle."""

    def __init__(self, canvas: Canvas, theme: Theme) -> None:
        self.canvas, self.theme, self.rng = canvas, theme, canvas.rng
        half = canvas.extent / 2
        self.frame = Frame(canvas, half, half, canvas.rng.uniform(0, 2 * math.pi))
        self.reach = canvas.extent * 0.75  # past the corners, whatever the heading

    def novel(self) -> bool:
        """Whether the next object is the novel kin."""
        return bool(self.rng.random() < self.theme.novel)

    def cover(self, ground: str) -> None:
        """Lay a ground everywhere."""
        r = self.reach
        self.frame.lay(ground, box(-r, -r, r, r))

    def scatter(self, count: int) -> list[Frame]:
        """Frames at random points and headings inside the image."""
        e = self.canvas.extent
        return [
            Frame(self.canvas, self.rng.uniform(0, e), self.rng.uniform(0, e), self.rng.uniform(0, 2 * math.pi))
            for _ in range(count)
        ]

    def trees(self, count: int, grounds: tuple[str, ...] = ("grass", "lawn", "meadow")) -> None:
        """Plant trees on green ground; they may overhang what stands beside them."""
        for spot in self.scatter(count):
            (point,) = spot.pixels([(0, 0)])
            if self.canvas.inside(point) and self.canvas.is_free([point], grounds):
                fac.tree(spot, self.rng.uniform(3.5, 7.5), shapes.pick(spot, self.theme.leaves))

    def traffic(self, road: Frame, count: int, over: tuple[str, ...] = (), freight: float = 0.3) -> None:
        """Vehicles in the two lanes of a road along x."""
        for _ in range(count):
            lane = int(self.rng.integers(2))
            x = self.rng.uniform(-0.9, 0.9) * self.reach
            spot = road.at(x, 6.3 if lane else -6.3, math.pi * lane)
            if self.novel():
                shapes.bus(spot, over=over)
            elif self.rng.random() < freight:
                shapes.truck(spot, over=over)
            else:
                shapes.craft(spot, "car", over=over)


ROAD = 27.0  # width of a road of two lanes, in units


def lay_road(road: Frame, reach: float, kerb: str = "pavement") -> None:
    """A straight road along x, between kerbs."""
    road.lay(kerb, box(-reach, -ROAD / 2 - 3, reach, ROAD / 2 + 3))
    road.lay("asphalt", box(-reach, -ROAD / 2, reach, ROAD / 2))


def mark_road(road: Frame, reach: float) -> None:
    """Its edge lines and dashes."""
    shapes.dashes(road, -reach, reach, 0)
    for y in (-ROAD / 2 + 1, ROAD / 2 - 1):
        road.stroke([(-reach, y), (reach, y)], shapes.WHITE, 0.6, 120)


def lay_junction(centre: Frame, radius: float) -> None:
    """The ring of road around a roundabout."""
    centre.lay("pavement", disc(radius + 16))
    centre.lay("asphalt", disc(radius + 13))


def mark_junction(centre: Frame, radius: float) -> None:
    """The bare ring: dashes of the crossing roads are painted over."""
    centre.stroke([*disc(radius + 7), (radius + 7, 0)], shapes.WHITE, 0.6, 110)


def tank_farm(site: Site, corner: Frame, rows: int, columns: int) -> None:
    """Rows of equal tanks with pipes between them; ``corner`` is the first tank's centre."""
    radius = site.rng.uniform(9, 15)
    pitch = 2 * radius + 7
    for row in range(rows):
        y = row * pitch
        corner.stroke([(-radius, y + radius + 3), (columns * pitch - radius, y + radius + 3)], (110, 106, 100), 1.2)
    for row in range(rows):
        for column in range(columns):
            spot = corner.at(column * pitch, row * pitch)
            if site.novel():
                shapes.gas_tank(spot, radius * 0.9)
            else:
                shapes.drum(spot, "storage tank", radius)


def harbour(site: Site) -> None:
    """Quay with piers and moored ships, open water with moving ones, a road and a depot behind the quay."""
    rng, frame, r = site.rng, site.frame, site.reach
    quay = rng.uniform(-0.02, 0.28) * site.canvas.extent
    site.cover("water")
    frame.lay("pavement", box(-r, quay, r, r))
    road = frame.at(0, quay + 24)
    lay_road(road, r)
    frame.lay("yard", box(-r, quay + 42, r, r))
    site.canvas.pave()
    frame.fill(box(-r, quay - 1.2, r, quay + 1.2), (204, 200, 192))
    frame.fill(box(-r, quay - 3.4, r, quay - 1.2), (12, 22, 32), 90)
    mark_road(road, r)
    x = -0.6 * r + rng.uniform(-12, 12)
    while x < 0.7 * r:
        length = rng.uniform(36, 58)
        root = frame.at(x, quay - 1.6, -math.pi / 2)
        if fac_pier := shapes.pier(root, length, rng.uniform(7, 9.5)):
            for side in (-1, 1):
                for along in (0.35, 0.8):
                    if fac_pier and rng.random() < 0.55:
                        berth(site, root.at(along * length, side * 12.5, math.pi * int(rng.integers(2))))
        x += rng.uniform(52, 74)
    if rng.random() < 0.5:
        shapes.vessel(frame.at(rng.uniform(-0.5, 0.5) * r, quay - 12, math.pi * int(rng.integers(2))))
    site.traffic(road, int(rng.integers(1, 5)), freight=0.5)
    if rng.random() < 0.5:
        tank_farm(site, frame.at(rng.uniform(-0.6, 0) * r, quay + 62), 2, int(rng.integers(2, 4)))
    else:
        fac.warehouse(frame.at(rng.uniform(-0.4, 0.4) * r, quay + 64), rng.uniform(44, 66), rng.uniform(24, 32))
    for spot in site.scatter(int(rng.integers(3, 9))):
        sail(site, spot)


def berth(site: Site, spot: Frame) -> None:
    """A moored boat."""
    if site.novel():
        shapes.sailboat(spot)
    else:
        shapes.craft(spot, "ship")


def sail(site: Site, spot: Frame) -> None:
    """A boat or ship under way, with its wake."""
    if site.novel():
        shapes.sailboat(spot)
    elif site.rng.random() < 0.3:
        shapes.vessel(spot)
    elif site.canvas.is_free(spot.pixels([(0, 0), (-20, 0), (12, 0), (-20, 9), (-20, -9)]), ("water",)):
        shapes.wake(spot, 20, 9)
        shapes.craft(spot, "ship")


def airport(site: Site) -> None:
    """A runway in grass, an apron with parked aircraft, a service road along a hangar."""
    rng, frame, r = site.rng, site.frame, site.reach
    edge = rng.uniform(-0.28, -0.12) * site.canvas.extent
    site.cover("grass")
    frame.lay("asphalt", box(-r, edge - 62, r, edge - 28))
    frame.lay("apron", box(-r, edge, r, edge + 92))
    road = frame.at(0, edge + 108)
    frame.lay("pavement", box(-r, edge + 92, r, r))
    lay_road(road, r)
    link = rng.uniform(-0.4, 0.4) * r
    frame.lay("apron", box(link - 12, edge - 30, link + 12, edge + 2))
    site.canvas.pave()
    runway(frame, edge - 45, r)
    frame.stroke([(-r, edge + 12), (r, edge + 12)], (222, 186, 66), 0.8)
    frame.stroke([(link, edge - 28), (link, edge + 12)], (222, 186, 66), 0.8)
    for joint in range(int(-r), int(r), 16):
        frame.stroke([(joint, edge), (joint, edge + 92)], (120, 120, 118), 0.4, 110)
    mark_road(road, r)
    x = -0.8 * r
    for row in (40, 76):
        x = -0.85 * r + rng.uniform(0, 20)
        while x < 0.85 * r:
            span = rng.uniform(32, 48)
            heading = math.pi / 2 + rng.normal(0, 0.06)
            if rng.random() < 0.7:
                spot = frame.at(x, edge + row, heading if row == 76 else heading)
                if site.novel():
                    fac.helipad(spot, 15) if site.canvas.is_free(spot.pixels(disc(16)), ("apron",)) else None
                    fac.helicopter(spot.at(0, 0, rng.uniform(0, 6.28)), rng.uniform(30, 40))
                else:
                    fac.plane(spot, span)
            x += span + 8
    site.traffic(road, int(rng.integers(2, 5)), freight=0.4)
    fac.warehouse(frame.at(rng.uniform(-0.3, 0.3) * r, edge + 140), rng.uniform(44, 60), rng.uniform(24, 30))
    site.trees(int(rng.integers(0, 8)))


def runway(frame: Frame, y: float, reach: float) -> None:
    """Centre line, edges, touch-down marks of a runway along x."""
    x = -reach
    while x < reach:
        frame.stroke([(x, y), (x + 11, y)], shapes.WHITE, 1.2)
        x += 20
    for offset in (-15.5, 15.5):
        frame.stroke([(-reach, y + offset), (reach, y + offset)], shapes.WHITE, 0.9)
    for offset in (-11, -8, -5, 5, 8, 11):
        frame.fill(box(-14, y + offset - 0.9, 2, y + offset + 0.9), shapes.WHITE)


def residential(site: Site) -> None:
    """Two streets, houses in gardens along them, pools behind, trees, often a roundabout where the streets cross."""
    rng, frame, r = site.rng, site.frame, site.reach
    ring = rng.uniform(10, 16) if rng.random() < 0.5 else 0.0
    main = frame.at(0, rng.uniform(-0.2, 0.2) * r)
    side = main.at(rng.uniform(-0.3, 0.3) * r, 0, math.pi / 2)
    site.cover("lawn")
    for road in (main, side):
        road.lay("pavement", box(-r, -ROAD / 2 - 4, r, ROAD / 2 + 4))
    for road in (main, side):
        road.lay("asphalt", box(-r, -ROAD / 2, r, ROAD / 2))
    if ring:
        lay_junction(side, ring)
    lots = [(x, way) for way in (-1, 1) for x in np.arange(-0.9 * r, 0.9 * r, rng.uniform(38, 44))]
    for x, way in lots:
        main.at(x + 4, way * 22).lay("pavement", box(-3, -7, 3, 7))
    site.canvas.pave()
    for road in (main, side):
        mark_road(road, r)
    if ring:
        side.lay  # the island comes last of the ground, first of the objects
        mark_junction(side, ring)
        shapes.drum(side, "roundabout", ring)
    site.traffic(main, int(rng.integers(1, 4)), freight=0.12)
    site.traffic(side, int(rng.integers(0, 3)), freight=0.12)
    rng.shuffle(lots)
    for x, way in lots:
        plot = main.at(x, way * 33, math.pi / 2 * int(rng.integers(2)) + rng.normal(0, 0.05))
        if not fac.house(plot, site.theme.snow):
            continue
        if rng.random() < 0.5:
            fac.swimming_pool(main.at(x + rng.uniform(-4, 4), way * rng.uniform(58, 64), rng.uniform(-0.2, 0.2)), rng.uniform(16, 23))
    site.trees(int(rng.integers(10, 26)))


def sports(site: Site) -> None:
    """A pitch, a block of courts, a pool, a car park, in a park."""
    rng, frame, r = site.rng, site.frame, site.reach
    site.cover("grass")
    frame.lay_path("pavement", [(-r, rng.uniform(-8, 8)), (0, 0), (r, rng.uniform(-12, 12))], 6)
    frame.lay_path("pavement", [(0, 0), (rng.uniform(-6, 6), r)], 6)
    across = rng.choice([-1.0, 1.0])
    courts = frame.at(across * 46, 42)
    courts.lay("pavement", box(-25, -40, 25, 40))
    park = frame.at(-across * 48, 46)
    park.lay("asphalt", box(-36, -30, 36, 30))
    lido = frame.at(across * 52, -42)
    with_pool = rng.random() < 0.6
    if with_pool:
        lido.lay("pavement", box(-32, -24, 32, 24))
    site.canvas.pave()
    fac.soccer_field(frame.at(-across * 30, -46, rng.normal(0, 0.03)), rng.uniform(68, 84))
    for y in (-26, 0, 26):
        draw = fac.basketball_court if site.novel() else fac.tennis_court
        if rng.random() < 0.8:
            draw(courts.at(0, y))
    if with_pool:
        fac.swimming_pool(lido, rng.uniform(34, 44))
    else:
        (fac.basketball_court if site.novel() else fac.tennis_court)(lido)
    for way in (-1, 1):
        for x in range(-30, 31, 13):
            park.stroke([(x, way * 28), (x, way * 8)], shapes.WHITE, 0.7, 200)
            if rng.random() < 0.4 and x < 30:
                spot = park.at(x + 6.5, way * 17, math.pi / 2 * way)
                shapes.craft(spot, "car") if not site.novel() or x else shapes.bus(park.at(0, 0))
    site.trees(int(rng.integers(12, 28)), ("grass",))


def industry(site: Site) -> None:
    """Tank farms and halls on a yard, lorries on the roads, sometimes a roundabout."""
    rng, frame, r = site.rng, site.frame, site.reach
    ring = rng.uniform(10, 15) if rng.random() < 0.6 else 0.0
    road = frame.at(0, rng.uniform(-0.25, 0.25) * r)
    cross = road.at(rng.uniform(-0.3, 0.3) * r, 0, math.pi / 2)
    site.cover("yard")
    for way in (road, cross):
        way.lay("pavement", box(-r, -ROAD / 2 - 3, r, ROAD / 2 + 3))
    for way in (road, cross):
        way.lay("asphalt", box(-r, -ROAD / 2, r, ROAD / 2))
    if ring:
        lay_junction(cross, ring)
    for x, y in ((-1, -1), (1, 1)):
        verge = cross.at(x * 60, y * 110)
        verge.lay("grass", box(-40, -30, 40, 30))
    site.canvas.pave()
    for way in (road, cross):
        mark_road(way, r)
    if ring:
        mark_junction(cross, ring)
        shapes.drum(cross, "roundabout", ring)
    site.traffic(road, int(rng.integers(1, 4)), freight=0.7)
    for x, y in ((-1, -1), (1, -1), (-1, 1), (1, 1)):
        if rng.random() < 0.55:
            tank_farm(site, cross.at(x * 42 - (x < 0) * 34, y * 42 - (y < 0) * 34), 2, 2)
        else:
            fac.warehouse(cross.at(x * 54, y * 48, math.pi / 2 * int(rng.integers(2))), rng.uniform(46, 62), rng.uniform(26, 36))
    site.traffic(cross, int(rng.integers(0, 3)), freight=0.6)
    site.trees(int(rng.integers(0, 8)))


def countryside(site: Site) -> None:
    """Fields, a river with a bridge, a road with little traffic, farms."""
    rng, frame, r = site.rng, site.frame, site.reach
    site.cover("meadow")
    x = -r
    while x < r:
        width = rng.uniform(34, 64)
        y = -r
        while y < r:
            depth = rng.uniform(40, 90)
            ground = shapes.pick(frame, ("crop", "stubble", "meadow", "soil", "crop", "meadow"))
            frame.lay(ground, box(x, y, x + width - 1.5, y + depth - 1.5))
            y += depth
        x += width
    bed = rng.uniform(-0.3, 0.3) * r
    width = rng.uniform(26, 46)
    bend = rng.uniform(6, 16)
    course = [(bed + bend * math.sin(t / 40), t) for t in np.arange(-r, r, 6.0)]
    frame.lay_path("sand", course, width + 7)
    frame.lay_path("water", course, width)
    road = frame.at(0, rng.uniform(-0.25, 0.25) * r)
    lay_banks(road, r, bed, width, bend)
    ring = rng.uniform(10, 15) if rng.random() < 0.4 else 0.0
    side = 1 if bed < 0 else -1
    hub = road.at(bed + side * (width / 2 + 46), 0)
    if ring:
        lay_junction(hub, ring)
    site.canvas.pave()
    mark_road(road, r)
    shapes.bridge(road.at(bed, 0), width + 2 * bend + 14, 25)
    if ring:
        mark_junction(hub, ring)
        shapes.drum(hub, "roundabout", ring)
    site.traffic(road, int(rng.integers(1, 4)), over=("bridge",), freight=0.5)
    for t in rng.uniform(-0.8, 0.8, 3) * r:
        spot = frame.at(bed + bend * math.sin(t / 40), t, math.pi / 2)
        (shapes.sailboat if site.novel() else lambda s: shapes.craft(s, "ship"))(spot)
    for spot in site.scatter(14):
        if site.novel():
            fac.greenhouse(spot, int(rng.integers(2, 5)), rng.uniform(30, 44))
        else:
            fac.house(spot, site.theme.snow)
    site.trees(int(rng.integers(6, 24)))


def lay_banks(road: Frame, reach: float, bed: float, width: float, bend: float) -> None:
    """The road up to the river on both sides; the bridge closes the gap."""
    gap = width / 2 + bend + 6
    for x0, x1 in ((-reach, bed - gap), (bed + gap, reach)):
        road.lay("pavement", box(x0, -ROAD / 2 - 2, x1, ROAD / 2 + 2))
        road.lay("asphalt", box(x0, -ROAD / 2, x1, ROAD / 2))


SCENES: dict[str, Callable[[Site], None]] = {
    "harbour": harbour,
    "airport": airport,
    "residential": residential,
    "sports": sports,
    "industry": industry,
    "countryside": countryside,
}
