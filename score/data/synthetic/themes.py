"""Seasons and regions of the synthetic sets: the colours of grounds and leaves, and how they are seen."""

from __future__ import annotations

from dataclasses import dataclass

from score.data.synthetic.canvas import Colour


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
    leaves=((72, 84, 76), (88, 82, 76), (108, 104, 100)), snow=0.7, zoom=(1.0, 1.5), novel=0.9,
)  # fmt: skip
ARID = Theme(
    grounds={
        "water": (42, 104, 112), "shallows": (104, 150, 142), "grass": (188, 160, 116), "lawn": (174, 154, 108),
        "asphalt": (116, 110, 104), "apron": (182, 172, 156), "yard": (186, 164, 130), "pavement": (202, 190, 168),
        "soil": (176, 132, 92), "sand": (214, 192, 150), "crop": (136, 140, 82), "stubble": (204, 176, 122),
        "meadow": (178, 158, 106),
    },
    leaves=((88, 98, 58), (104, 106, 66)), snow=0.0, zoom=(1.0, 1.5), novel=0.9,
)  # fmt: skip
AUTUMN = Theme(
    grounds={
        "water": (58, 74, 72), "shallows": (104, 108, 92), "grass": (142, 124, 74), "lawn": (146, 134, 78),
        "asphalt": (82, 80, 82), "apron": (146, 142, 138), "yard": (142, 126, 112), "pavement": (164, 154, 142),
        "soil": (112, 84, 62), "sand": (182, 160, 124), "crop": (156, 122, 66), "stubble": (186, 150, 88),
        "meadow": (154, 138, 80),
    },
    leaves=((176, 100, 44), (188, 136, 52), (142, 70, 44), (112, 92, 54)), snow=0.0, zoom=(1.0, 1.5), novel=0.9,
)  # fmt: skip
