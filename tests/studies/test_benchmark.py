from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from score.errors import ConfigError
from score.studies.benchmark import (
    Benchmark,
    Row,
    mean_rows,
    published,
    read,
    table,
    terminal,
    write_tables,
)

PAIR = {"alpha": 0.2, "beta": 1 / 3}
OWN: dict[str, Any] = {"task": "instances", "targets": {"nwpu_val": PAIR}, "fixed": PAIR}


def figures(value: float | None) -> dict[str, Any]:
    groups = {group: dict.fromkeys(("AP", "AP50", "AP75", "APs", "APm", "APl"), value) for group in ("all", "seen")}
    none = dict.fromkeys(("AP", "AP50"))
    return {**groups, "unseen": none, "harmonic": none, "boxes": {"all": {"AP": value}}}


def benchmark(*targets: str, **changes: Any) -> Benchmark:
    settings: dict[str, Any] = {"name": "mine", "task": "instances", "fixed": PAIR, **changes}
    return Benchmark(**settings, targets=dict.fromkeys(targets, PAIR))


def rows(**values: float | None) -> list[Row]:
    return [
        Row(target, kind, 0.0, 1 / 3, None if value is None else figures(value), "" if value is not None else "no file")
        for target, value in values.items()
        for kind in ("published", "fixed")
    ]


def test_means_are_over_targets_that_are_all_there() -> None:
    whole = mean_rows(benchmark("a", "b"), rows(a=10.0, b=30.0))
    assert [row.kind for row in whole] == ["published", "fixed"]
    assert whole[0].value("all", "AP") == pytest.approx(20) and whole[0].box == pytest.approx(20)
    assert whole[0].value("unseen", "AP") is None
    assert mean_rows(benchmark("a", "b"), rows(a=10.0, b=None)) == []
    assert mean_rows(benchmark("a"), rows(a=10.0)) == []


def ends(benchmark: Benchmark, rows: list[Row]) -> list[tuple]:
    """The published figure, the gap to it, and why a target is missing, of each row."""
    found = table(benchmark, rows)
    where = [found.head.index(title) for title in (f"{benchmark.compare or 'published'} AP", "gap", "missing")]
    return [tuple(row[index] for index in where) for row in found.rows]


def test_the_gap_is_ours_less_the_published_figure() -> None:
    paper = benchmark("a", "b", compare="SCORE", published={"SCORE": {"a": 12.5, "b": 30.5}})
    expected = [(12.5, "-2.50", ""), (30.5, "-0.50", ""), (21.5, "-1.50", "")]
    assert ends(paper, rows(a=10.0, b=30.0)) == [*[line for line in expected[:2] for _ in range(2)], *[expected[2]] * 2]
    stated = benchmark("a", "b", compare="SCORE", published={"SCORE": {"mean": 29.76}})
    assert ends(stated, rows(a=10.0, b=30.0))[-1] == (29.76, "-9.76", "")
    part = [replace(row, whole=False) for row in rows(a=10.0, b=30.0)]
    assert set(ends(paper, part)) == {(None, None, "")}
    assert ends(paper, rows(a=10.0, b=None))[-1] == (30.5, None, "no file")


def test_a_terminal_of_80_columns_is_enough_for_many_targets() -> None:
    targets = ["a_dataset_with_a_name_as_long_as_that", "b", "c", "d", "e"]
    many = benchmark(*targets, compare="SCORE", published={"SCORE": dict.fromkeys(targets, 100.0)})
    text = terminal(many, rows(**dict.fromkeys(targets, 100.0)), "limit=5")
    assert max(map(len, text.splitlines())) <= 80
    assert "100.0100.0" not in text and " 0  0.333" in text and text.endswith("\nlimit=5")
    below = text[text.index("\npublished") :]
    assert below.count("100.00") == 6 and "mean" in below  # five and their mean


def test_a_published_mean_alone_is_shown() -> None:
    paper = benchmark("a", "b", compare="SCORE", published={"GSNet": {"mean": 28.63}, "SCORE": {"mean": 29.76}})
    text = terminal(paper, rows(a=1.0, b=None))
    assert "28.63" in text and "29.76" in text and "b  missing: no file" in text
    assert [row[-1] for row in published(paper).rows] == [28.63, 29.76]


def test_what_is_written_holds_every_row_and_the_note(tmp_path: Path) -> None:
    paper = benchmark("a", compare="SCORE", published={"SCORE": {"a": 1.0}})
    written = write_tables(paper, rows(a=2.0), tmp_path, {"seed": 1}, "limit=5")
    assert [path.name for path in written] == ["table.md", "table.csv", "table.tex", "results.json", "manifest.json"]
    text = (tmp_path / "table.md").read_text()
    assert text.count("| a ") == 2 and "published" in text and text.endswith("\nlimit=5\n")
    assert [row["kind"] for row in json.loads((tmp_path / "results.json").read_text())] == ["published", "fixed"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"published": {"SCORE": {"nwpu_val": "high"}}}, "could not convert"),
        ({"published": {"SCORE": 3}}, "not a benchmark"),
        ({"published": {"SCORE": {"nwpu_val": 60.0}}, "compare": "SCOER"}, "compare: SCOER is none of SCORE"),
        ({"targets": {"mean": PAIR}}, "a target called mean"),
        ({"targets": {"nwpu_val": {**PAIR, "jsn": "x"}}}, "nwpu_val takes alpha, beta"),
        ({"targets": {"mine": {**PAIR, "json": "x"}}}, "both json and images"),
        ({"targets": {"mine": {**PAIR, "json": 3, "images": "x"}}}, "both json and images"),
        ({"targets": {"mine": {"alpha": 1.5, "beta": 0}}}, "mine or fixed has an alpha or beta that is not in 0 .. 1"),
        ({"targets": {"../up": PAIR}}, "without slashes"),
        ({"targets": {5: PAIR}}, "called 5"),
        ({"task": ["instances"]}, "one of instances, semantic"),
        ({"targets": {}}, "needs targets"),
        ({"task": "boxes"}, "one of instances, semantic"),
        ({"tragets": {}}, "tragets"),
    ],
)
def test_what_is_no_benchmark_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**OWN, **changes}))
    with pytest.raises(ConfigError, match=message):
        read(str(tmp_path / "mine.yaml"), tmp_path)


def test_published_figures_may_be_left_out(tmp_path: Path) -> None:
    for name, changes in {"none": {"published": None}, "some": {"published": {"SCORE": {"nwpu_val": None}}}}.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({**OWN, **changes}))
        found = read(name, tmp_path)
        assert ends(found, rows(nwpu_val=1.0))[0] == (None, None, "")
        assert "nwpu_val" in terminal(found, rows(nwpu_val=1.0))
