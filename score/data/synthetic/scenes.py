"""The scenes of the synthetic set: which grounds a place consists of, and which objects stand on them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from score.data.synthetic import facilities as fac
from score.data.synthetic import shapes
from score.data.synthetic.canvas import Canvas, Frame, box, disc
from score.data.synthetic.themes import Theme


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
            if self.rng.random() > freight:
                shapes.craft(spot, "car", over=over)
            elif self.novel():
                shapes.bus(spot, over=over)
            else:
                shapes.truck(spot, over=over)


ROAD = 27.0  # width of a road of two lanes, in units


def lay_road(road: Frame, reach: float, kerb: str = "pavement") -> None:
    """A straight road along x, between kerbs."""
    road.lay(kerb, box(-reach, -ROAD / 2 - 3, reach, ROAD / 2 + 3))
    road.lay("asphalt", box(-reach, -ROAD / 2, reach, ROAD / 2))


def mark_road(road: Frame, reach: float, gap: tuple[float, float] = (0.0, 0.0)) -> None:
    """Its edge lines and dashes, bare within the ``gap`` of a crossing."""
    for x0, x1 in ((-reach, gap[0]), (gap[1], reach)):
        shapes.dashes(road, x0, x1, 0)
        for y in (-ROAD / 2 + 1, ROAD / 2 - 1):
            road.stroke([(x0, y), (x1, y)], shapes.WHITE, 0.6, 120)


def lay_junction(centre: Frame, radius: float) -> None:
    """The ring of road around a roundabout."""
    centre.lay("pavement", disc(radius + 16))
    centre.lay("asphalt", disc(radius + 13))


def mark_junction(centre: Frame, radius: float) -> None:
    """The dashes of the ring."""
    centre.stroke([*disc(radius + 7), (radius + 7, 0)], shapes.WHITE, 0.6, 110)


def tank_farm(site: Site, corner: Frame, rows: int, columns: int) -> None:
    """Rows of equal tanks within a bund, a pipe along each row; ``corner`` is the first tank's centre."""
    radius = site.rng.uniform(9, 15)
    pitch = 2 * radius + 7
    right, bottom = columns * pitch - radius - 3, rows * pitch - radius - 3
    bund = box(-radius - 5, -radius - 5, right, bottom)
    if not site.canvas.is_free(corner.pixels(bund), ("yard",)):
        return
    corner.fill(bund, (60, 54, 46), 36)
    corner.stroke([*bund, bund[0]], (196, 190, 178), 1.6)
    for row in range(rows):
        y = row * pitch
        corner.stroke([(-radius, y + radius + 2.5), (right, y + radius + 2.5)], (118, 112, 104), 1.2)
        for column in range(columns):
            spot = corner.at(column * pitch, y)
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
    if rng.random() < 0.5:
        shapes.vessel(frame.at(rng.uniform(-0.4, 0.4) * r, quay - 12, math.pi * int(rng.integers(2))))
    berths = []
    x = -0.6 * r + rng.uniform(-12, 12)
    while x < 0.7 * r:
        length = rng.uniform(36, 58)
        root = frame.at(x, quay - 1.6, -math.pi / 2)
        if shapes.pier(root, length, rng.uniform(7, 9.5)):
            berths += [root.at(along * length, side * 12.5) for side in (-1, 1) for along in (0.35, 0.8)]
        x += rng.uniform(52, 74)
    for spot in site.scatter(8)[: int(rng.integers(3, 9))]:
        sail(site, spot)
    site.traffic(road, int(rng.integers(1, 4)), freight=0.4)
    if rng.random() < 0.5:
        tank_farm(site, frame.at(rng.uniform(-0.6, 0) * r, quay + 62), 2, int(rng.integers(2, 4)))
    else:
        fac.warehouse(frame.at(rng.uniform(-0.4, 0.4) * r, quay + 64), rng.uniform(44, 66), rng.uniform(24, 32))
    rng.shuffle(berths)  # type: ignore[arg-type] # a list is shuffled in place like an array
    for spot in berths:
        if rng.random() < 0.7:
            berth(site, spot.at(0, 0, math.pi * int(rng.integers(2))))


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
    else:
        clear = site.canvas.is_free(spot.pixels([(-45, 0), (-30, 9), (-30, -9)]), ("water",))
        shapes.craft(spot, "ship", moving=clear)


def airport(site: Site) -> None:
    """A runway in grass, an apron with parked aircraft, a service road along a hangar."""
    rng, frame, r = site.rng, site.frame, site.reach
    edge = rng.uniform(-0.28, -0.12) * site.canvas.extent
    site.cover("grass")
    frame.lay("asphalt", box(-r, edge - 62, r, edge - 28))
    frame.lay("apron", box(-r, edge, r, edge + 98))
    road = frame.at(0, edge + 114)
    frame.lay("pavement", box(-r, edge + 98, r, r))
    lay_road(road, r)
    link = rng.uniform(-0.4, 0.4) * r
    frame.lay("apron", box(link - 12, edge - 30, link + 12, edge + 2))
    site.canvas.pave()
    runway(frame, edge - 45, r)
    frame.stroke([(-r, edge + 12), (r, edge + 12)], (222, 186, 66), 0.8)
    frame.stroke([(link, edge - 28), (link, edge + 12)], (222, 186, 66), 0.8)
    for joint in range(int(-r), int(r), 16):
        frame.stroke([(joint, edge), (joint, edge + 98)], (120, 120, 118), 0.4, 110)
    mark_road(road, r)
    for row, heading in ((33, rng.choice([-1, 1]) * math.pi / 2), (76, math.pi / 2)):
        x = -0.85 * r + rng.uniform(0, 20)
        while x < 0.85 * r:
            span = rng.uniform(30, 42)
            if rng.random() < 0.85:
                spot = frame.at(x, edge + row, heading + rng.normal(0, 0.06))
                if site.novel():
                    fac.helicopter(spot, rng.uniform(34, 44))
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
    cross = rng.uniform(-0.25, 0.25) * r
    side = main.at(cross, 0, math.pi / 2)
    gap = (ring or ROAD / 2 - 10) + 13
    site.cover("lawn")
    for road in (main, side):
        road.lay("pavement", box(-r, -ROAD / 2 - 4, r, ROAD / 2 + 4))
    pitch = rng.uniform(38, 44)
    lots = [(road, x, way) for road in (main, side) for way in (-1, 1) for x in np.arange(-0.9 * r, 0.9 * r, pitch)]
    for road, x, way in lots:
        road.at(x + 4, way * 22).lay("pavement", box(-3, -7, 3, 7))
    for road in (main, side):
        road.lay("asphalt", box(-r, -ROAD / 2, r, ROAD / 2))
    if ring:
        lay_junction(side, ring)
    site.canvas.pave()
    mark_road(main, r, (cross - gap, cross + gap))
    mark_road(side, r, (-gap, gap))
    if ring:
        mark_junction(side, ring)
        shapes.drum(side, "roundabout", ring)
    site.traffic(main, int(rng.integers(1, 4)), freight=0.25)
    site.traffic(side, int(rng.integers(0, 3)), freight=0.25)
    rng.shuffle(lots)  # type: ignore[arg-type] # a list is shuffled in place like an array
    for road, x, way in lots:
        plot = road.at(x, way * 37, math.pi / 2 * int(rng.integers(2)) + rng.normal(0, 0.05))
        if not fac.house(plot, site.theme.snow):
            continue
        if rng.random() < 0.5:
            behind = road.at(x + rng.uniform(-4, 4), way * rng.uniform(64, 70), rng.uniform(-0.2, 0.2))
            fac.swimming_pool(behind, rng.uniform(16, 23))
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
    field = fac.football_field if site.novel() else fac.soccer_field
    field(frame.at(-across * 30, -46, rng.normal(0, 0.03)), rng.uniform(68, 84))
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
                shapes.craft(spot, "car")
    if site.novel():
        shapes.bus(park)
    site.trees(int(rng.integers(12, 28)), ("grass",))


def industry(site: Site) -> None:
    """Tank farms and halls on a yard, lorries on the roads, sometimes a roundabout."""
    rng, frame, r = site.rng, site.frame, site.reach
    ring = rng.uniform(10, 15) if rng.random() < 0.6 else 0.0
    road = frame.at(0, rng.uniform(-0.25, 0.25) * r)
    at = rng.uniform(-0.25, 0.25) * r
    cross = road.at(at, 0, math.pi / 2)
    gap = (ring or ROAD / 2 - 10) + 13
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
    mark_road(road, r, (at - gap, at + gap))
    mark_road(cross, r, (-gap, gap))
    if ring:
        mark_junction(cross, ring)
        shapes.drum(cross, "roundabout", ring)
    site.traffic(road, int(rng.integers(1, 4)), freight=0.7)
    for x, y in ((-1, -1), (1, -1), (-1, 1), (1, 1)):
        if rng.random() < 0.55:
            tank_farm(site, cross.at(x * 42 - (x < 0) * 34, y * 42 - (y < 0) * 34), 2, 2)
        else:
            hall = cross.at(x * 54, y * 48, math.pi / 2 * int(rng.integers(2)))
            fac.warehouse(hall, rng.uniform(46, 62), rng.uniform(26, 36))
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
    width = rng.uniform(26, 46)
    bend = rng.uniform(6, 16)
    bed = rng.uniform(-0.25, 0.25) * site.canvas.extent
    course = [(bed + bend * math.sin(t / 40), t) for t in np.arange(-r, r, 6.0)]
    for ground, half in (("sand", width / 2 + 4), ("water", width / 2)):
        frame.lay(ground, [(x - half, t) for x, t in course] + [(x + half, t) for x, t in reversed(course)])
    y = rng.uniform(-0.2, 0.2) * site.canvas.extent
    road = frame.at(bed + bend * math.sin(y / 40), y)  # its origin is the crossing
    bank = width / 2 + 5
    for x0, x1 in ((-2 * r, -bank), (bank, 2 * r)):
        road.lay("pavement", box(x0, -ROAD / 2 - 2, x1, ROAD / 2 + 2))
        road.lay("asphalt", box(x0, -ROAD / 2, x1, ROAD / 2))
    ring = rng.uniform(10, 15) if rng.random() < 0.4 else 0.0
    hub = (-1 if bed > 0 else 1) * (bank + ring + 30)
    if ring:
        lay_junction(road.at(hub, 0), ring)
    site.canvas.pave()
    mark_road(road, 2 * r, (hub - ring - 13, hub + ring + 13) if ring else (-bank, bank))
    shapes.bridge(road, 2 * bank + 6, 25)
    if ring:
        mark_junction(road.at(hub, 0), ring)
        shapes.drum(road.at(hub, 0), "roundabout", ring)
    site.traffic(road, int(rng.integers(1, 4)), over=("bridge",), freight=0.5)
    for t in rng.uniform(-0.8, 0.8, 3) * r:
        spot = frame.at(bed + bend * math.sin(t / 40), t, math.pi / 2)
        (shapes.sailboat if site.novel() else lambda s: shapes.craft(s, "ship"))(spot)
    for spot in site.scatter(30):
        if site.novel():
            fac.greenhouse(spot, int(rng.integers(2, 5)), rng.uniform(26, 40))
        else:
            fac.house(spot, site.theme.snow)
    site.trees(int(rng.integers(6, 24)))


SCENES: dict[str, Callable[[Site], None]] = {
    "harbour": harbour,
    "airport": airport,
    "residential": residential,
    "sports": sports,
    "industry": industry,
    "countryside": countryside,
}
