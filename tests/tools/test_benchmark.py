"""``tools/benchmark.py``, ``tools/sweep.py`` and ``tools/report.py`` as a user types them."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from tests.tiny_data import tiny_data
from tests.tiny_model import tiny_folder
from tests.tools.command_line import Call, files

OWN_SET = "{json:data/instances.json,images:data/images}"
DATA = f"data={OWN_SET}"
RUNTIME = ("runtime.workers=0", "runtime.threads=1", "runtime.device=cpu")
OWN = {
    "task": "instances",
    "targets": {
        "rectangles": {"alpha": 0.2, "beta": 0.6, "json": "data/instances.json", "images": "data/images"},
        "nwpu_val": {"alpha": 0.4, "beta": 0.4},
        "gone": {"alpha": 0.4, "beta": 0.4, "json": "gone/instances.json", "images": "gone"},
        "half_gone": {"alpha": 0.4, "beta": 0.4, "json": "data/instances.json", "images": "data/gone"},
        "never_heard_of": {"alpha": 0.4, "beta": 0.4},
    },
    "fixed": {"alpha": 0.4, "beta": 0.8},
    "compare": "SCORE",
    "published": {"SCORE": {"rectangles": 90.0, "nwpu_val": 67.59}},
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    tiny_data(folder / "data", size=64)
    tiny_data(folder / "other", size=64, seed=1)
    tiny_folder(folder / "model", ["ship", "storage_tank"], "input.test.shortest=64", "model.queries=12")
    return folder


@pytest.fixture
def place(prepared: Path, tmp_path: Path) -> Path:
    for name in ("data", "model", "other"):
        shutil.copytree(prepared / name, tmp_path / name)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(OWN, sort_keys=False))
    return tmp_path


def test_a_benchmark_makes_the_whole_table(place: Path, call: Call) -> None:
    outcome = call("benchmark", "benchmark=mine.yaml", "model=model", "pictures=2", *RUNTIME)
    assert outcome.code == 0, outcome.err
    table = outcome.out[outcome.out.index("\ntarget ") :]
    assert max(map(len, table.splitlines()[:-2])) <= 80
    for line in (
        "nwpu_val  missing: no root of datasets is set",
        "gone  missing: no gone/instances.json",
        "half_gone  missing: no data/gone",
        "never_heard_of  missing: no such dataset is registered",
        "rectangles  published    0.2   0.6",
        "rectangles  fixed        0.4   0.8",
    ):
        assert line in table
    folder = place / "model" / "benchmark" / "mine"
    written = ["manifest.json", "rectangles.html", "results.json", "table.csv", "table.md", "table.tex"]
    assert [name for name in files(folder) if not name.startswith("cells")] == written
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["target"] for row in rows] == [name for name in OWN["targets"] for _ in range(2)]  # type: ignore[union-attr]
    assert float(rows[0]["gap"]) == pytest.approx(float(rows[0]["AP"]) - 90, abs=0.011)
    assert rows[2]["missing"] == "no root of datasets is set" and rows[2]["SCORE AP"] == "67.59"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert len(manifest["weights"]) == 64 and manifest["targets"]["rectangles"]["images"] == 6
    assert manifest["command"].startswith("tools/benchmark.py benchmark=mine.yaml")
    assert {"config", "device", "seed", "seconds", "versions"} <= manifest.keys()
    assert manifest["benchmark"]["targets"]["rectangles"]["alpha"] == 0.2
    assert manifest["targets"]["rectangles"]["cells"]["fixed"]["weights"] == manifest["weights"]


def test_finished_cells_are_not_done_again(place: Path, call: Call) -> None:
    settings = ("benchmark=mine.yaml", "model=model", "report=false", *RUNTIME)
    first = call("benchmark", *settings)
    assert "6 of 6 images predicted now" in first.out
    again = call("benchmark", *settings)
    assert again.out.count("finished before") == 2 and "predicted now" not in again.out
    assert again.out[again.out.index("\ntarget ") :] == first.out[first.out.index("\ntarget ") :]
    image = place / "data" / "images" / "001.png"
    image.write_bytes(image.read_bytes() + b"\0")  # another file
    changed = call("benchmark", *settings)
    assert "finished before" not in changed.out and "6 of 6 images predicted now" in changed.out


def test_one_word_and_five_hundred(place: Path, call: Call) -> None:
    tiny_data(place / "one", size=64, names=["ship"])
    tiny_data(place / "many", images=2, size=64, names=[f"thing {number}" for number in range(500)])
    for name in ("one", "many"):
        own = {"task": "instances", "fixed": OWN["fixed"]}
        target = {"alpha": 0.4, "beta": 0.8, "json": f"{name}/instances.json", "images": f"{name}/images"}
        (place / f"{name}.yaml").write_text(yaml.safe_dump({**own, "targets": {f"set_{name}": target}}))
        outcome = call("benchmark", f"benchmark={name}.yaml", "model=model", "pictures=1", *RUNTIME)
        assert outcome.code == 0, outcome.err
        assert (place / "model" / "benchmark" / name / f"set_{name}.html").stat().st_size < 1_000_000
    assert "set_many" in outcome.out


def test_a_sweep_picks_on_validation_only(place: Path, call: Call) -> None:
    data, other = ({"json": f"{name}/instances.json", "images": f"{name}/images"} for name in ("data", "other"))
    for name, entry in (("data", data), ("other", other)):
        shutil.copy(entry["json"], f"{name}/{name}_set.json")
    sets = {name: f"{{json: {name}/{name}_set.json, images: {name}/images}}" for name in ("data", "other")}
    grid = ("model=model", "alphas=[0,0.5,1]", "betas=[0,1]", "output=out", *RUNTIME)
    outcome = call("sweep", f"data={sets['data']}", f"validation={sets['other']}", *grid)
    assert outcome.code == 0, outcome.err
    assert "picked on other_set, AP " in outcome.out and "the best in hindsight, on the target itself" in outcome.out
    assert files(place / "out") == ["data_set.json", "data_set.png"]
    found = json.loads((place / "out" / "data_set.json").read_text())
    assert len(found["means"]["all"]["AP"]) == 3 and len(found["ap"][0]) == 2
    refused = call("sweep", f"data={sets['data']}", f"validation={sets['data']}", *grid)
    assert refused.code == 2 and "the pair would be picked on the target" in refused.err
    told = call("sweep", f"data={sets['data']}", f"validation={sets['data']}", "tune_on_target=true", *grid)
    assert told.code == 0 and "TUNED ON THE TARGET" in told.out
    tiny_data(place / "seen", size=64, names=["ship"])
    (place / "seen" / "instances.json").rename(place / "seen" / "seen_set.json")
    seen = "{json: seen/seen_set.json, images: seen/images}"
    undefined = call("sweep", f"data=[{seen},{sets['other']}]", "group=unseen", *grid)
    assert undefined.code == 0 and "AP of the group unseen is undefined: seen_set has no" in undefined.out
    assert {"seen_set.json", "seen_set.png", "other_set.json"} <= set(files(place / "out"))
    own = call("sweep", f"data={sets['data']}", f"validation={seen}", *grid)  # its pick keeps the model's own beta
    assert (
        own.code == 0 and ", beta 0.8:" in own.out and "it has no unseen class, so beta is the model's own" in own.out
    )
    nowhere = call("sweep", f"data={sets['data']}", f"validation={seen}", "group=unseen", *grid)
    assert nowhere.code == 2 and "AP of the group unseen is undefined on seen_set" in nowhere.err
    shutil.copytree(place / "data", place / "again")  # the target under another name
    (place / "again" / "instances.json").rename(place / "again" / "again.json")
    again = "{json: again/again.json, images: again/images}"
    refused = call("sweep", f"data={sets['data']}", f"validation={again}", *grid)
    assert refused.code == 2 and "validation=again has 6 images of data_set" in refused.err
    caps = call("sweep", f"data={sets['data']}", "top_k=[3,300]", *grid)
    assert "data_set_top3\n" in caps.out and "data_set_top300\n" in caps.out and "give validation=NAME" in caps.out


def test_runs_fold_into_mean_and_spread(place: Path, call: Call) -> None:
    figures = {"seen": {"AP": 30.0}, "unseen": {"AP": None}, "harmonic": {"AP": None}}
    for rai, seed, value in (("small", 1, 10.0), ("small", 2, 14.0), ("off", 1, 8.0)):
        run = place / "runs" / f"{rai}_{seed}"
        (run / "evaluation").mkdir(parents=True)
        (run / "model.safetensors").touch()
        config = {"seed": seed, "name": "x", "choices": {"rai": rai, "gca": "off"}, "input": {"seed": seed}}
        config["model"] = {"network": {"rai": None if rai == "off" else {"layers": 1}}}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        result = {"all": {"AP": value, "AP50": 2 * value}, **figures}
        (run / "evaluation" / "nwpu_val.json").write_text(json.dumps(result))
    outcome = call("report", "runs=[runs]", "output=table")
    assert outcome.code == 0, outcome.err
    assert [line.split() for line in outcome.out.splitlines()[3:6]] == [
        ["rai=off", "1", "8.0", "16.0", "30.0", "-", "-"],
        ["rai=small", "1,", "2", "12.0", "24.0", "30.0", "-", "-"],
        ["±", "2.8", "±", "5.7", "±", "0.0"],
    ]
    written = [line.replace(" ", "") for line in (place / "table.md").read_text().splitlines()]
    assert "|rai=small|1,2|12.00±2.83|24.00±5.66|30.00±0.00|-|-|" in written
    shutil.copytree(place / "runs" / "off_1", place / "runs" / "off_again")
    assert "the same seed and settings" in call("report", "runs=[runs]").err
    assert call("report", "runs=[gone]").err.startswith("error: gone: no run that was scored")
    assert call("report", "runs=[]").err.startswith("error: runs=[]: no folder")


BAD: list[tuple[str, str, str]] = [  # command, its arguments beside the model, what the line says
    ("benchmark", "benchmark=isaid_transfr", "no such file; there are isaid512_transfer, "),
    ("benchmark", "benchmark=bad.yaml", "bad.yaml: not a benchmark ("),
    ("benchmark", "benchmark=taken.yaml", "targets.nwpu_val: this is the name of another dataset"),
    ("benchmark", "benchmark=half.yaml", "002.png: no such image"),
    ("benchmark", "benchmark=mine.yaml model=gone", "no such model folder: gone"),
    ("benchmark", "benchmark=mine.yaml top_k=0", "top_k=0: not a whole number of at least 1"),
    ("benchmark", "benchmark=mine.yaml runtime=cpu", "runtime=cpu: it holds settings of its own"),
    ("benchmark", "benchmark=mine.yaml --limit=3", "unrecognized arguments: --limit=3; settings are written"),
    ("evaluate", f"{DATA} ensemble.alpha=1.5", "ensemble.alpha=1.5: not a number in 0 .. 1, or null"),
    ("evaluate", f"{DATA} 'overrides=[\"rai.weight=5\"]'", "overrides=rai.weight=5: no effect on a trained model"),
    ("evaluate", f"data=[{OWN_SET},isaid_val]", "isaid_val: no root of datasets is set"),
    ("sweep", "data=nwpu_val alphas=[2]", "alphas=[2]: not a number in 0 .. 1, or a list of such"),
    ("sweep", "data=nwpu_val alphas=0.4", "alphas=0.4: it takes a list, as in alphas=[A,B]"),
    ("sweep", "data=nwpu_val top_k=[]", "top_k=[]: not a whole number of at least 1"),
    ("sweep", "data=nwpu_val top_k=null", "top_k=None: not a whole number of at least 1"),
    ("sweep", "data=nwpu_val top_k=0", "top_k=0: not a whole number of at least 1"),
    ("sweep", "data=nwpu_val metric=mAP", "metric=mAP: not one of AP, AP50, AP75"),
    ("sweep", "data=[]", "data=[]: no dataset; name at least one"),
    ("sweep", f"{DATA} names={{boat:ship}}", "has the classes ship, storage_tank, plane"),
    ("sweep", f"{DATA} names=plane", "names=plane: not other words for classes"),
    ("sweep", f"{DATA} limit=1.5", "limit=1.5: not a whole number of at least 1, or null"),
    ("sweep", f"{DATA} tune_on_target=x", "tune_on_target=x: it takes true or false"),
]


@pytest.mark.parametrize(("tool", "arguments", "line"), BAD)
def test_bad_input(place: Path, call: Call, tool: str, arguments: str, line: str) -> None:
    (place / "bad.yaml").write_text("targets: {nwpu_val: {alpha: 0.4}}\ntask: instances\nfixed: {alpha: 0, beta: 0}\n")
    own = {"alpha": 0, "beta": 0, "json": "data/instances.json", "images": "data/images"}
    other = {**own, "json": "other/instances.json", "images": "other/images"}
    for name, targets in {"taken": {"nwpu_val": own}, "half": {"first": own, "second": other}}.items():
        (place / f"{name}.yaml").write_text(yaml.safe_dump({**OWN, "targets": targets}))
    (place / "other" / "images" / "002.png").unlink()
    before = files(place)
    outcome = call(tool, "model=model", *shlex.split(arguments))
    assert outcome.code == 2
    assert outcome.err.startswith("error: ") and line in outcome.err and outcome.err.count("\n") == 1
    assert files(place) == before


def test_a_semantic_benchmark(place: Path, call: Call) -> None:
    target = {"alpha": 0.0, "beta": 0.0, "json": "data/instances.json", "images": "data/images"}
    own = {"task": "semantic", "fixed": {"alpha": 1, "beta": 1}, "targets": {"maps": target}}
    own["targets"]["floodnet_val"] = {"alpha": 0.4, "beta": 0.8}
    (place / "maps.yaml").write_text(yaml.safe_dump(own, sort_keys=False))
    outcome = call("benchmark", "benchmark=maps.yaml", "model=model", *RUNTIME)
    assert outcome.code == 0, outcome.err
    assert " mIoU " in outcome.out and "floodnet_val  missing: no root of datasets is set" in outcome.out
    with (place / "model" / "benchmark" / "maps" / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {"mIoU", "fwIoU", "aAcc", "seen mIoU"} <= rows[0].keys() and 0 <= float(rows[0]["mIoU"]) <= 100
    again = call("benchmark", "benchmark=maps.yaml", "model=model", *RUNTIME)
    assert again.out.count("finished before") == 2
