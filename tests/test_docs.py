"""Every command and Python block of README.md and docs/ does what it says, on small stand-ins for models and data.

A command without a rule in ``RULES`` fails. ``run`` runs it, with settings after it that make it small; ``compose``
reads its settings as the command does and stops there: for downloads, clusters and days on a GPU.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas
import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

import score
from score.data.catalog import read_spec
from score.files import shipped
from tests.geo import dates, rasters
from tests.geo.test_labels import layer as write_layer
from tests.tiny_data import tiny_data
from tests.tiny_model import tiny_folder
from tests.tools.command_line import Call, call, score_command  # noqa: F401 - fixtures

ROOT = Path(score.__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES = {"bash", "python", "yaml", "text", "bibtex"}
RUNTIME = ("runtime.workers=0", "runtime.threads=1", "runtime.device=cpu")
TINY = (
    *("backbone=tiny", "scene=tiny", "model.queries=10", "model.decoder_layers=1", "optim.iterations=1"),
    *(
        "input.train.size=64",
        "input.test.shortest=64",
        "input.test.longest=64",
        "evaluation.limit=2",
        "paths.cache=null",
    ),
    *("evaluation.pictures=0", "overwrite=true", *RUNTIME),
)
RULES: list[
    tuple[str, str, tuple[str, ...]]
] = [  # what a command begins with, what is done, settings that make it small
    (r"score demo", "compose", ()),
    (r"score prepare dataset=geo ", "run", ("workers=1", "tile_size_px=16")),
    (r"score check_dataset ", "compose", ()),  # tests/tools/test_check_dataset.py
    (r"score prepare ", "compose", ()),  # tests/data/prepare, tests/tools/test_prepare.py
    (r"score train( -m)? experiment=(paper_\w+|ablation)", "compose", ()),
    (r"score train experiment=isaid512_lite.* --cfg job", "run", ()),
    (r"score train experiment=isaid512_lite", "run", TINY),
    (r"score (evaluate|benchmark|sweep) ", "run", ("limit=2", *RUNTIME)),
    (r"score predict model=fcclip_coco", "compose", ()),  # tests/weights/test_known.py
    (r"score predict images='https", "compose", ()),  # tests/geo/test_raster.py
    (r"score predict .*(engine=dask|postgresql:)", "compose", ()),  # tests/geo/test_scenes.py, test_postgis.py
    (r"score predict ", "run", RUNTIME[1:]),
    (r"score app", "compose", ()),  # tests/tools/test_app.py
    (r"score change ", "run", RUNTIME[1:]),
    (r"score calibrate ", "run", ("limit=2", *RUNTIME[1:])),
    (r"score profile models=lite", "run", ("size=64", "repeats=1", *RUNTIME[1:])),
    (r"score profile ", "compose", ()),  # tests/tools/test_profile.py
    (r"score report ", "run", ()),
    (r"score weights (list|check) ?", "run", ()),
    (r"score weights fetch ", "compose", ()),
    (r"score (convert|align) ", "compose", ()),
    (r"torchrun .* tools/train.py ", "compose", ()),
    (r"make \w+", "make", ()),
    (r"pip install ", "extras", ()),
    (r"pip wheel |python3 -m venv |source ", "elsewhere", ()),  # tests/tools/test_wheel.py, tests/tools/test_setup.py
    (r"python tools/detectron2_wheel.py", "elsewhere", ()),  # tests/tools/test_detectron2_wheel.py
    (r"python benchmarks/(context|naming|recipe).py ", "elsewhere", ()),  # tests/test_benchmarks.py
    (r"pytest ", "collect", ()),
]

pytestmark = pytest.mark.slow


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Language and text of each fenced block."""
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL):
        yield match[1], match[2]


def commands(block: str) -> Iterator[list[str]]:
    """The words of each command of a shell block."""
    for line in block.replace("\\\n", " ").splitlines():
        words: list[str] = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word != "&&":
                words.append(word)
            elif words:
                yield words
                words = []


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages name: models, photographs, one's own data, the working layout of datasets."""
    place = tmp_path_factory.mktemp("stand_ins")
    for part in ("isaid512/train", "isaid512/val", "nwpu/val"):
        dataset, split = part.split("/")
        folder = place / "datasets_root" / part
        tiny_data(
            folder, images=3, size=64, names=read_spec(shipped("datasets") / f"{dataset}.yaml").classes, seed=len(part)
        )
        (folder / "instances.json").rename(folder / f"instances_{split}.json")
        (place / "dota_labels").mkdir(exist_ok=True)
    for number in (1, 2, 3):
        (place / "dota_labels" / f"{number:03}.txt").write_text("10 10 30 10 30 30 10 30 plane 0\n")
    for part, seed in (("train", 7), ("val", 8)):
        tiny_data(place / part, images=2, size=64, seed=seed)
        (place / part / "instances.json").rename(place / f"{part}.json")
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    (place / "photos").mkdir()
    photo.save(place / "photos" / "harbour.png")
    photo.save(place / "image.jpg")
    rasters.write(place / "scene.tif", rasters.picture(96, 160))
    write_layer(place / "labels.gpkg")
    (place / "words.txt").write_text("ship\nstorage tank\n")
    (place / "weights").mkdir()
    for name in ("demo", "isaid512_lite"):
        tiny_folder(place / "runs" / name, ["ship", "storage_tank"], "input.test.shortest=64", "model.queries=10")
    run = place / "runs" / "ablation" / "rai-off"
    shutil.copytree(place / "runs" / "demo", run)
    (run / "evaluation").mkdir()
    figures = {key: {"AP": 1.0, "AP50": 2.0} for key in ("all", "seen", "unseen", "harmonic")}
    (run / "evaluation" / "nwpu_val.json").write_text(json.dumps(figures))
    pair = dates.ten_changes()
    pandas.DataFrame({"path": ["2019.tif"]}).to_parquet(place / "catalogue.parquet")
    for year, things, shift in ((2019, pair.before, (0, 0)), (2021, pair.before, (-3, 0)), (2023, pair.after, (2, 1))):
        dates.frame(things, shift).to_file(place / f"{year}.gpkg")
        dates.write(place / f"{year}.tif", dates.image(things, shift)[:240, :320])
    [benchmark] = [text for kind, text in blocks(ROOT / "docs" / "evaluate.md") if kind == "yaml"]
    (place / "mine.yaml").write_text(benchmark)
    return place


@pytest.fixture
def place(stand_ins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call) -> Path:  # noqa: F811
    """The working folder, with the stand-ins; ``call`` has gone there."""
    shutil.copytree(stand_ins, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("SCORE_DATASETS", "datasets_root")
    return tmp_path


def first_of_each(settings: list[str]) -> list[str]:
    """Settings of a multirun as those of its first run."""
    parsed = zip(settings, OverridesParser.create().parse_overrides(settings), strict=True)
    return [
        f"{override.get_key_element()}={next(override.sweep_string_iterator())}"
        if override.is_sweep_override()
        else text
        for text, override in parsed
    ]


def follow(words: list[str], score_command: Call) -> None:  # noqa: F811
    """Do with a command what its rule says."""
    while "=" in words[0]:
        words = words[1:]  # an assignment to the environment
    if words[0] == "export":
        return
    line = " ".join(words)
    rule = next(((do, small) for start, do, small in RULES if re.match(start, line)), None)
    assert rule, f"{line}: no rule in RULES"
    do, small = rule
    if do == "run":
        outcome = score_command(*words[1:], *small)
        assert outcome.code == 0, f"{line}: {outcome.err}"
    elif do == "compose":
        name, settings = (words[1], words[2:]) if words[0] == "score" else ("train", words[3:])
        if "-m" in settings:
            settings = first_of_each([word for word in settings if word != "-m"])
        if name == "weights":
            settings = [f"action={settings[0]}", f"name={settings[1]}", *settings[2:]]
        outcome = score_command(name, *settings, "--cfg", "job")
        assert outcome.code == 0, f"{line}: {outcome.err}"
    elif do == "make":
        subprocess.run(["make", "--dry-run", "--silent", *words[1:]], cwd=ROOT, check=True, capture_output=True)
    elif do == "extras":
        asked = {extra for part in re.findall(r"\[(.*?)\]", line) for extra in part.split(",")}
        text = (ROOT / "pyproject.toml").read_text()
        assert asked and all(f"\n{extra} = [" in text for extra in asked), line
    elif do == "collect":
        paths = [word for word in words[1:] if not word.startswith("-")]
        assert all((ROOT / path).exists() for path in paths), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_python_block_works(page: Path, place: Path, score_command: Call) -> None:  # noqa: F811
    for language, text in blocks(page):
        assert language in LANGUAGES, f"{text}: say what it is, one of {', '.join(sorted(LANGUAGES))}"
        if language == "bash":
            for words in commands(text):
                follow(words, score_command)
        elif language == "python":
            exec(compile(text, page.name, "exec"), {})
        elif language == "yaml":
            assert yaml.safe_load(text)


def test_no_command_stands_outside_a_block() -> None:
    for page in PAGES:
        prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        assert not re.search(r"^(?: {4}|\t)\S", prose, flags=re.MULTILINE), page


def test_links_to_files_lead_somewhere() -> None:
    for page in [*PAGES, ROOT / "CHANGELOG.md"]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)|src=\"([^\"]+)\"", page.read_text()):
            path = "".join(target)
            assert "://" in path or (page.parent / path).exists(), f"{page.name}: {path}"


def test_the_pages_are_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Segmenter" in (tmp_path / "site" / "api" / "index.html").read_text()
