"""Bad input: one line that says what, where and what to do, exit code 2, and nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.tiny_data import tiny_data
from tests.tiny_model import tiny_folder
from tests.tools.command_line import Call, files

OWN = "{json: data/instances.json, images: data/images}"
TINY = (
    "model=small",
    "backbone=tiny",
    "scene=tiny",
    "optim=lite",
    "paths.cache=null",
    "optim.iterations=1",
    "runtime.workers=0",
)
TRAIN = ("train", *TINY, f"data.train={OWN}", "data.test=[]", "output=run")
EVALUATE = ("evaluate", "model=model", f"data={OWN}", "runtime.workers=0")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    tiny_data(folder / "data", size=64)
    tiny_folder(folder / "model", ["ship", "storage_tank"])
    target = {"alpha": 0.5, "beta": 0.5, **dict(pair.split(": ") for pair in OWN[1:-1].split(", "))}
    (folder / "mine.yaml").write_text(
        json.dumps({"task": "instances", "targets": {"own": target}, "fixed": {"alpha": 0, "beta": 1}})
    )
    return folder


@pytest.fixture
def place(prepared: Path, tmp_path: Path) -> Path:
    """The working folder: ``data`` and ``model``."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    return tmp_path


def edit(change: Callable[[dict], object]) -> Callable[[Path], object]:
    """Change the JSON of the working folder's data."""

    def apply(place: Path) -> None:
        path = place / "data" / "instances.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return apply


def empty_layout(place: Path) -> None:
    (place / "root").mkdir()


def other_categories(place: Path) -> None:
    tiny_data(place / "root" / "isaid512" / "train", names=["ship", "storage_tank", "kite"])
    (place / "root/isaid512/train/instances.json").rename(place / "root/isaid512/train/instances_train.json")


def damage(place: Path) -> None:
    (place / "data" / "images" / "003.png").write_bytes(b"no picture")


def truncate(place: Path) -> None:
    """The header stays whole: found when the pixels are read."""
    for path in (place / "data" / "images").iterdir():
        path.write_bytes(path.read_bytes()[:-2000])


def other_size(place: Path) -> None:
    Image.new("RGB", (65, 64)).save(place / "data" / "images" / "003.png")


def other_architecture(place: Path) -> None:
    path = place / "model" / "model.safetensors"
    save_file({name.replace("classifier", "head"): value for name, value in load_file(path).items()}, path)


def nothing(place: Path) -> None:
    """All is well."""


CASES = {
    "no root": (
        nothing,
        ("train", *TINY, "data.train=isaid512_train"),
        ["isaid512_train", "SCORE_DATASETS", "paths.datasets"],
    ),
    "missing root": (nothing, ("train", *TINY, "data.train=isaid512_train", "paths.datasets=gone"), ["gone"]),
    "missing files": (
        empty_layout,
        ("train", *TINY, "data.train=isaid512_train", "paths.datasets=root"),
        ["isaid512/train/instances_train.json", "no such"],
    ),
    "unknown dataset": (nothing, ("train", *TINY, "data.train=isaid512_trian"), ["isaid512_trian", "isaid512_train"]),
    "unknown test set": (nothing, (*TRAIN, "data.test=[nwpu_vall]"), ["nwpu_vall"]),
    "missing json": (lambda place: (place / "data/instances.json").unlink(), TRAIN, ["data/instances.json", "no such"]),
    "json of no dataset": (edit(dict.clear), TRAIN, ["data/instances.json"]),
    "missing image": (
        lambda place: (place / "data/images/003.png").unlink(),
        TRAIN,
        ["data/images/003.png", "no such"],
    ),
    "missing image at test": (
        lambda place: (place / "data/images/003.png").unlink(),
        EVALUATE,
        ["data/images/003.png", "no such"],
    ),
    "unreadable image": (damage, TRAIN, ["data/images/003.png", "cannot be read"]),
    "unreadable image at test": (damage, EVALUATE, ["data/images/003.png", "cannot be read"]),
    "image of another size": (other_size, TRAIN, ["data/images/003.png", "65x64", "64x64"]),
    "other categories": (
        other_categories,
        ("train", *TINY, "data.train=isaid512_train", "paths.datasets=root"),
        ["instances_train.json", "categories differ", "kite", "plane"],
    ),
    "no annotations": (edit(lambda content: content["annotations"].clear()), TRAIN, ["no annotations"]),
    "only crowds": (
        edit(lambda content: [item.update(iscrowd=1) for item in content["annotations"]]),
        TRAIN,
        ["data/instances.json: all 12 annotations are crowds"],
    ),
    **{
        f"damaged mask at {command[0]}": (
            edit(lambda content: content["annotations"][3].update(segmentation={"size": [64, 64], "counts": [9]})),
            command,
            ["data/instances.json: annotation 4 has run lengths of 9 pixels"],
        )
        for command in (TRAIN, EVALUATE, ("sweep", *EVALUATE[1:]), ("benchmark", "model=model", "benchmark=mine.yaml"))
    },
    "empty vocabulary": (
        edit(lambda content: content["categories"].clear()),
        TRAIN,
        ["data/instances.json", "no class name"],
    ),
    "duplicate names": (
        edit(lambda content: content["categories"][1].update(name="Ship")),
        TRAIN,
        ["data/instances.json", "duplicate class name", "ship"],
    ),
    "unknown experiment": (
        nothing,
        ("train", "experiment=papr_isaid"),
        ["experiment=papr_isaid", "did you mean paper_isaid?"],
    ),
    "unknown group choice": (nothing, ("train", "backbone=tinny"), ["backbone=tinny", "did you mean tiny?"]),
    "misspelt override": (
        nothing,
        (*TRAIN, "optim.itterations=5"),
        ["optim.itterations", "did you mean optim.iterations?"],
    ),
    "override without its group": (nothing, (*TRAIN, "lr=5"), ["lr: no such setting (did you mean optim.lr?)"]),
    "unreadable override": (nothing, (*TRAIN, "seed=[1"), ["seed=[1"]),
    "override of the wrong kind": (nothing, (*TRAIN, "optim.iterations=many"), ["optim.iterations", "many"]),
    "negative rate": (nothing, (*TRAIN, "optim.lr=-1"), ["optim.lr=-1: not a number of at least 0"]),
    "missing setting": (nothing, ("evaluate", "model=model"), ["data: not given; add data=VALUE"]),
    "missing model": (nothing, ("evaluate", f"data={OWN}"), ["model: not given; add model=VALUE"]),
    "no model folder": (nothing, (*EVALUATE, "model=gone"), ["no such model folder: gone"]),
    "weights of another architecture": (
        other_architecture,
        EVALUATE,
        ["model/model.safetensors", "another architecture", "classifier."],
    ),
    "misspelt override of a model": (nothing, (*EVALUATE, "overrides=['model.network.selection.topk=1']"), ["topk"]),
    "output that cannot be written": (nothing, (*TRAIN, "output=/proc/run"), ["/proc/run", "choose another output"]),
    "output under a file": (nothing, (*TRAIN, "output=data/instances.json/run"), ["data/instances.json/run", "output"]),
    "evaluation under a file": (
        nothing,
        (*EVALUATE, "output=data/instances.json/x"),
        ["data/instances.json/x", "output"],
    ),
    "output of another run": (nothing, (*TRAIN, "output=model"), ["model already holds a run", "overwrite=true"]),
    "nothing to resume": (nothing, (*TRAIN, "resume=true"), ["nothing to resume", "run/checkpoints"]),
    "no such device": (nothing, (*EVALUATE, "runtime.device=cuda:77"), ["runtime.device=cuda:77"]),
    "missing weights of a tower": (
        nothing,
        (*TRAIN, "backbone=remoteclip_vitl14", "paths.weights=data"),
        ["RemoteCLIP-ViT-L-14.pt", "chendelong/RemoteCLIP"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_line_and_leaves_nothing(case: str, place: Path, call: Call) -> None:
    prepare, command, expected = CASES[case]
    prepare(place)
    before = files(place)
    outcome = call(*command)
    assert outcome.code == 2, outcome
    [line] = outcome.err.splitlines()
    print(f"{case}: {line}")  # noqa: T201 - pytest -rP shows the whole table
    assert line.startswith("error: ")
    for words in expected:
        assert words in line
    assert files(place) == before


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_breaks_off_is_named_whoever_reads_it(place: Path, call: Call, workers: int) -> None:
    truncate(place)
    outcome = call(*TRAIN, f"runtime.workers={workers}")
    assert outcome.code == 2
    [line] = outcome.err.splitlines()
    assert line.startswith("error: data/images/0")
    assert "cannot be read as an image" in line
    assert not (place / "run" / "model.safetensors").exists()
