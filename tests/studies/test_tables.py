from __future__ import annotations

import json
from pathlib import Path

import pytest

from score.errors import OutputError
from score.evaluation.coco import coco_metrics
from score.studies.tables import save_json, summary, table
from tests.evaluation.coco_cases import crowded_scenes

NAMES = ["ship", "expressway-service-area with a very long name", "storage_tank", "never"]


@pytest.fixture(scope="module")
def metrics() -> dict:
    records, detections = crowded_scenes(5, images=6, classes=4, per_image=20)
    return coco_metrics(records, detections, NAMES, [True, True, False, False])


def test_table_fits_80_columns_and_says_everything(metrics: dict) -> None:
    text = table(metrics)
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
    lines = table(metrics).splitlines()
    end = lines[0].index("AP50") + 4
    row = next(line for line in lines if line.startswith("all"))
    assert row[:end].split()[-1] == f"{metrics['all']['AP50']:.1f}" and len(row[:end].rstrip()) == end


def test_summary_has_a_line_a_dataset(metrics: dict) -> None:
    text = summary({"synthetic": metrics, "a title that is a good deal too long for its column": metrics})
    lines = text.splitlines()
    assert len(lines) == 4 and max(map(len, lines)) <= 80
    assert lines[2].split() == [
        "synthetic",
        *(f"{metrics[group][key]:.1f}" for group, key in (("all", "AP"), ("all", "AP50"))),
        *(f"{metrics[group]['AP50']:.1f}" for group in ("seen", "unseen")),
    ]


def test_json_round_trip(metrics: dict, tmp_path: Path) -> None:
    path = tmp_path / "new" / "metrics.json"
    save_json(path, metrics)
    assert json.loads(path.read_text(encoding="utf-8")) == metrics
    assert "NaN" not in path.read_text() and metrics["per_class"]["never"]["AP"] is None


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    save_json(path, {"AP": 1})
    with pytest.raises(ValueError):
        save_json(path, {"AP": float("nan")})
    assert json.loads(path.read_text()) == {"AP": 1}
    assert [item.name for item in tmp_path.iterdir()] == ["metrics.json"]


def test_json_into_a_file_as_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot write"):
        save_json(tmp_path / "file" / "metrics.json", {})
