"""What is found in a dataset: a finding, its kind, and findings in groups."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

_VALUES = re.compile(
    r"\"[^\"]*\"|'[^']*'|\[[^\]]*\]|\([^()]*\)|(?<=address )\S+|(?<=file_name ).*?(?=, which|;)"
    r"|(?<=out of )[^;]*|(?<=may mean )[^;]*|\b(?:null|true|false)\b|(?<![\w.])-?\d[\d.,x]*(?:e[+-]?\d+)?\b(?! bits)"
)


class Finding(NamedTuple):
    """One thing that is not as it should be.

    Attributes:
        kind: what it is, in words that all of its kind share.
        where: the entry or file.
        what: more about this one, or "".
        stops: whether training or scoring refuses the dataset for it.
    """

    kind: str
    where: str
    what: str = ""
    stops: bool = False


def refused(where: str, what: str) -> Finding:
    """A finding for which training refuses the dataset, with its values if there are any."""
    kind = kind_of(what)
    return Finding(kind, where, what.rpartition("; ")[0] if kind != what else "", stops=True)


def kind_of(what: str) -> str:
    """A message without its values."""
    return re.sub(r"…( …)+", "…", _VALUES.sub("…", what))


def count(findings: Iterable[Finding]) -> dict[tuple[bool, str], list[Finding]]:
    """Findings by whether they stop training and by kind: first those that do, of each the most frequent first."""
    groups: dict[tuple[bool, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.stops, finding.kind), []).append(finding)
    return dict(sorted(groups.items(), key=lambda pair: (not pair[0][0], -len(pair[1]), pair[0][1])))
