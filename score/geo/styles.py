"""How QGIS draws objects: a colour a class, the same as in pictures."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree as ET

from score.drawing import TINT, Colour, palette

DOCTYPE = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"


def qml(words: Sequence[str], column: str = "class", colours: Sequence[Colour] | None = None) -> str:
    """A QGIS layer style of polygons, as a ``.qml`` file or a GeoPackage's ``layer_styles`` holds it.

    Settings stand there twice: as options for QGIS 3.22 and newer, and as properties for older ones.

    Args:
        words: the classes, in the order that gives them their colours.
        column: which holds the class.
        colours: of each; None for those of pictures.
    """
    root = ET.Element("qgis", version="3.22.0", styleCategories="Symbology")
    flags = {"forceraster": "0", "symbollevels": "0", "enableorderby": "0"}
    renderer = ET.SubElement(root, "renderer-v2", {"type": "categorizedSymbol", "attr": column, **flags})
    classes, symbols = ET.SubElement(renderer, "categories"), ET.SubElement(renderer, "symbols")
    for number, (word, colour) in enumerate(zip(words, colours or palette(len(words)), strict=True)):
        ET.SubElement(classes, "category", render="true", symbol=str(number), value=word, label=word)
        symbol = ET.SubElement(symbols, "symbol", type="fill", name=str(number), alpha="1", clip_to_extent="1")
        layer = ET.SubElement(symbol, "layer", {"class": "SimpleFill", "enabled": "1", "locked": "0", "pass": "0"})
        rgb = ",".join(map(str, colour))
        settings = {
            "color": f"{rgb},{round(255 * TINT)}",
            "style": "solid",
            "outline_color": f"{rgb},255",
            "outline_style": "solid",
            "outline_width": "0.46",
            "outline_width_unit": "MM",
            "joinstyle": "bevel",
        }
        options = ET.SubElement(layer, "Option", type="Map")
        for key, value in settings.items():
            ET.SubElement(options, "Option", type="QString", name=key, value=value)
        for key, value in settings.items():
            ET.SubElement(layer, "prop", k=key, v=value)
    ET.SubElement(root, "blendMode").text = "0"
    ET.SubElement(root, "featureBlendMode").text = "0"
    ET.SubElement(root, "layerGeometryType").text = "2"
    ET.indent(root, " ")
    return DOCTYPE + ET.tostring(root, encoding="unicode") + "\n"
