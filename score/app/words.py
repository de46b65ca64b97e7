"""The words to look for, as a command line or a file gives them."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from score.errors import ConfigError
from score.model.vocabulary import check


def read_words(source: Any) -> list[str]:
    """Take words as they are, or from a file.

    Args:
        source: a word, a list of words, or a file: text with one name a line (``#`` begins a comment), a list in JSON
            or YAML, a YAML with ``names`` (as YOLO's ``data.yaml``), or a CSV with a column ``name``.

    Raises:
        ConfigError: it holds no words, an empty one, one said twice, or cannot be read.
    """
    if isinstance(source, Mapping):
        raise ConfigError(f"vocabulary={dict(source)}: not names; give a list of them, or a file with one name a line")
    if isinstance(source, list):
        if nested := [name for name in source if isinstance(name, list | Mapping)]:
            raise ConfigError(f"vocabulary: {nested[0]}: not a name; give a list of names")
        return check(["" if name is None else str(name) for name in source])
    path = Path(str(source))
    if not path.is_file() and not path.suffix and os.sep not in str(source):
        return check([str(source)])
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise ConfigError(f"vocabulary {path}: {reason}; give names, or a file with one name a line") from error
    names = _names(text, path.suffix.lower())
    if names is None:
        raise ConfigError(f"vocabulary {path}: not a list of names; write one name a line")
    return check(names)


def _names(text: str, suffix: str) -> list[str] | None:
    """The names in a file of a format that its suffix says, or None where it holds something else."""
    if suffix in (".yaml", ".yml", ".json"):
        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError:
            return None
        found = content.get("names") if isinstance(content, dict) else content
        found = list(found.values()) if isinstance(found, dict) else found
        return found if isinstance(found, list) and all(isinstance(name, str) for name in found) else None
    lines = [name for line in text.splitlines() if (name := line.split("#")[0].strip())]
    columns = [column.strip().lower() for column in lines[0].split(",")] if lines else []
    if "name" in columns and (suffix == ".csv" or len(columns) > 1):
        rows = list(csv.reader(io.StringIO("\n".join(lines))))[1:]
        place = columns.index("name")
        return [row[place].strip() for row in rows] if all(len(row) > place for row in rows) else None
    indexed = bool(lines) and all(re.match(r"\d+\s", line) for line in lines)
    if indexed or (suffix == ".csv" and len(columns) > 1):
        return None
    if any(re.search(r"[][{}:;\"<>\t]|^\d+\s*,", line) for line in lines):
        return None
    return lines
