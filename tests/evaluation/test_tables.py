from __future__ import annotations

import csv
import dataclasses
import io

import pytest

from score.evaluation.coco import coco_metrics
from score.evaluation.semantic import METRICS
from score.evaluation.tables import Table, of_task, overview, summary
from tests.evaluation.coco_cases import crowded_scenes

NAMES = ["ship", "expressway-service-area with a very long name", "storage_tank", "never"]


@pytest.fixture(scope="module")
def metrics() -> dict:
    records, detections = crowded_scenes(5, images=6, classes=4, per_image=20)
    return coco_metrics(records, detections, NAMES, [True, True, False, False])


def test_table_fits_80_columns_and_says_everything(metrics: dict) -> None:
    text = of_task(metrics)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    starts = [line.split()[0] for line in lines if line.strip()]
    for start in ("all", "seen", "unseen", "harmonic", "ship", "storage_tank", "never"):
        assert start in starts
    ship = next(line for line in lines if line.startswith("ship")).split()
    assert ship[1:5] == [
        "seen",
        str(metrics["per_class"]["ship"]["instances"]),
        f"{metrics['per_class']['ship']['AP']:.1f}",
        f"{metrics['per_class']['ship']['AP50']:.1f}",
    ]
    assert next(line for line in lines if line.startswith("never")).split()[1:4] == ["unseen", "0", "-"]


def test_columns_line_up_under_their_heads(metrics: dict) -> None:
    lines = of_task(metrics).splitlines()
    end = lines[0].index("AP50") + 4
    row = next(line for line in lines if line.startswith("all"))
    assert row[:end].split()[-1] == f"{metrics['all']['AP50']:.1f}" and len(row[:end].rstrip()) == end


def test_names_too_long_for_their_column_go_on_below(metrics: dict) -> None:
    lines = [line.split() for line in of_task(metrics).splitlines()]
    first = next(index for index, words in enumerate(lines) if words[0] == "expressway-service-area")
    assert lines[first][1] == "seen" and lines[first + 1] == ["with", "a", "very", "long", "name"]


def test_summary_has_a_line_a_dataset(metrics: dict) -> None:
    lines = summary({"synthetic": metrics, "a title that is a good deal too long for its column": metrics}).splitlines()
    assert max(map(len, lines)) <= 80 and lines[1].split() == ["AP50", "AP50"]
    assert lines[3].split() == [
        "synthetic",
        *(f"{metrics[group][key]:.1f}" for group, key in (("all", "AP"), ("all", "AP50"))),
        *(f"{metrics[group]['AP50']:.1f}" for group in ("seen", "unseen")),
    ]


def test_a_table_wider_than_the_terminal_goes_on_in_blocks_that_repeat_the_words() -> None:
    heads = [f"figure {index}" for index in range(12)]
    wide = Table(["name", "kind", *heads], [["a_rather_long_name", "seen", *[100.0] * 11, None]], keys=2)
    blocks = wide.plain().split("\n\n")
    assert len(blocks) == 2 and max(map(len, wide.plain().splitlines())) <= 80
    assert all("a_rather_long_name  seen" in block for block in blocks)
    assert wide.plain().count("100.0") == 11 and blocks[1].split()[-1] == "-"


def test_every_form_holds_what_names_may_hold() -> None:
    name = r"a_b%|${}^~\,"
    table = Table(["name", "AP"], [[name, 2.125], [], ["b", None]])
    line = table.latex().splitlines()[4]
    assert line.strip().startswith(r"a\_b\%|\$\{\}\^{}\textasciitilde{}\textbackslash{},")
    assert line.endswith(r"& 2.12 \\")
    assert table.latex().count("\n") == 8
    assert table.markdown().splitlines()[2].startswith(r"| a_b%\|${}^~\, |") and table.markdown().count("\n") == 4
    assert list(csv.reader(io.StringIO(table.csv(1)))) == [["name", "AP"], [name, "2.1"], ["b", ""]]
    assert table.plain().splitlines()[2].split() == [name, "2.1"]


def test_a_table_of_80_columns_is_one_block_and_of_81_is_two() -> None:
    for figures, blocks in (("1" * 12, 1), ("1" * 13, 2)):
        table = Table(["name", *"abcd"], [["n" * 18, "x" * 14, "x" * 14, "x" * 14, figures]])
        lines = table.plain().splitlines()
        assert max(map(len, lines)) == (80 if blocks == 1 else 66) and len(table.plain().split("\n\n")) == blocks
        assert "n" * 18 in lines[2].split()


def test_two_columns_of_words_are_reckoned_with_the_gap_between_them() -> None:
    for figures, blocks in (("1" * 20, 1), ("1" * 21, 2)):
        table = Table(["name", "pair", "a", "b"], [["n" * 18, "p" * 19, "x" * 17, figures]], keys=2)
        lines = table.plain().splitlines()
        assert max(map(len, lines)) <= 80 and len(table.plain().split("\n\n")) == blocks
        assert blocks == 2 or max(map(len, lines)) == 80


def test_counts_of_many_pixels_are_short() -> None:
    def row(count: int) -> list[str]:
        item = {"IoU": 1.0, "Acc": 2.0, "pixels": count, "seen": True}
        groups = dict.fromkeys(("all", "seen", "unseen", "harmonic"), dict.fromkeys(METRICS, 3.0))
        metrics = {**groups, "per_class": {"road": item}, "background": {**item, "IoU": 4.0}, "images": 1}
        lines = of_task(metrics, "semantic").splitlines()
        assert lines[-1] == "semantic in percent; 1 images"
        assert lines[-2].split()[0] == "background" and lines[-2].split()[-2:] == ["4.0", "2.0"]
        return next(line.split() for line in lines if line.startswith("road"))

    assert row(9_999_999) == ["road", "seen", "9999999", "1.0", "2.0"]
    assert row(10_000_000) == ["road", "seen", "10", "M", "1.0", "2.0"]


def test_several_tasks_are_tables_under_their_titles(metrics: dict) -> None:
    both = overview({**metrics, "boxes": metrics})
    assert both == f"{of_task(metrics)}\n\n{of_task(metrics, 'boxes')}"
    assert both.count("mask AP in percent; 6 images, 120 detections") == both.count("box AP in percent") == 1
    assert overview({"boxes": metrics}) == of_task(metrics, "boxes")


def test_a_table_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Table([], []).keys = 2  # type: ignore[misc]
