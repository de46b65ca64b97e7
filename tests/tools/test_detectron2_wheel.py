from __future__ import annotations

import hashlib
import importlib.util
import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "detectron2_wheel.py"

# Small files that hold what each rule is about, laid out as in the sdist.
SOURCES = {
    "LICENSE": "Apache License\n",
    "detectron2/__init__.py": '__version__ = "0.5"\n',
    "detectron2/masks.py": (
        "import numpy as np\n\nKEPT = np.bool_, np.integer, np.float32\n\n\n"
        "def cast(x):\n    return x.astype(np.bool), x.astype(np.int), x.astype(np.float), np.asarray(['a'], np.str)\n"
    ),
    "detectron2/transform.py": "from PIL import Image\n\nDEFAULT = Image.LINEAR\n",
    "detectron2/model_zoo/__init__.py": "",
    "detectron2/model_zoo/model_zoo.py": (
        "import os\nimport pkg_resources\n\n\ndef find(config_path):\n"
        "    return pkg_resources.resource_filename(\n"
        '        "detectron2.model_zoo", os.path.join("configs", config_path)\n    )\n'
    ),
    "detectron2/model_zoo/configs/a.yaml": "A: 1\n",
    "projects/PointRend/point_rend/__init__.py": "",
    "projects/PointRend/point_rend/point_features.py": "POINTS = 3\n",
    "projects/DeepLab/deeplab/__init__.py": "",
    "setup.py": "raise SystemExit('its build was run')\n",
}


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("detectron2_wheel", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def write_sdist(folder: Path, sources: dict[str, str]) -> tuple[Path, str]:
    """An sdist of `sources` under a top folder, and its SHA-256."""
    path = folder / "detectron2_cdo-0.5.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in sources.items():
            info = tarfile.TarInfo(f"detectron2_cdo-0.5/{name}")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def build(maker: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def build(sources: dict[str, str]) -> Path:
        sdist, digest = write_sdist(tmp_path, sources)
        monkeypatch.setattr(maker, "SHA256", digest)
        return maker.build(tmp_path / "wheels", sdist)

    return build


def test_the_wheel_installs_and_its_code_runs(build, tmp_path: Path) -> None:
    wheel = build(SOURCES)
    site = tmp_path / "site"
    options = ["--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(wheel)], check=True)
    code = """
import numpy as np
from detectron2 import _C
from detectron2.masks import KEPT, cast
from detectron2.model_zoo.model_zoo import find
from detectron2.projects.point_rend.point_features import POINTS
from detectron2.transform import DEFAULT
from PIL import Image
import detectron2.projects.deeplab
assert KEPT == (np.bool_, np.integer, np.float32)
assert [x.dtype.kind for x in cast(np.ones(2))] == ["b", "i", "f", "U"]
assert DEFAULT == Image.BILINEAR and POINTS == 3
assert open(find("a.yaml")).read() == "A: 1\\n"
assert not _C.has_cuda() and "pure-Python" in _C.get_compiler_version()
try:
    _C.deform_conv_forward
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=site, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "detectron2._C.deform_conv_forward: this is a pure-Python build" in done.stdout


def test_licence_and_changes_are_stated(build) -> None:
    with zipfile.ZipFile(build(SOURCES)) as wheel:
        assert wheel.read("detectron2-0.5+pure.dist-info/LICENSE") == b"Apache License\n"
        assert b"License: Apache-2.0" in wheel.read("detectron2-0.5+pure.dist-info/METADATA")
        changed = {name for name in wheel.namelist() if wheel.read(name).startswith(b"# Changed from detectron2 0.5")}
    assert changed == {"detectron2/masks.py", "detectron2/transform.py", "detectron2/model_zoo/model_zoo.py"}


def test_the_same_sdist_gives_the_same_bytes(build) -> None:
    first = build(SOURCES).read_bytes()
    assert build(SOURCES).read_bytes() == first


def test_another_hash_is_refused(maker: ModuleType, tmp_path: Path) -> None:
    sdist, digest = write_sdist(tmp_path, SOURCES)
    with pytest.raises(maker.WheelError, match=f"has SHA-256 {digest}, expected {maker.SHA256}"):
        maker.build(tmp_path / "wheels", sdist)
    assert not (tmp_path / "wheels").exists()


@pytest.mark.parametrize(
    ("path", "old", "new", "message"),
    [
        ("detectron2/masks.py", "np.bool)", "bool)", "the rule for np.bool, .* matches nothing in any file"),
        ("detectron2/masks.py", "np.int)", "int)", "the rule for np.int, .* matches nothing"),
        ("detectron2/masks.py", "np.float)", "float)", "the rule for np.float, .* matches nothing"),
        ("detectron2/masks.py", "np.str)", "str)", "the rule for np.str, .* matches nothing"),
        ("detectron2/masks.py", "return", "return x.astype(np.object),", "masks.py still holds np.object"),
        ("detectron2/masks.py", "def cast(x):", "def cast(x:", r"masks.py, line \d, is not valid Python"),
        ("detectron2/transform.py", "LINEAR", "NEAREST", "the rule for Image.LINEAR, .* matches nothing"),
        (
            "detectron2/transform.py",
            "DEFAULT",
            "import pkg_resources\nDEFAULT",
            "transform.py still holds pkg_resources",
        ),
        ("detectron2/model_zoo/model_zoo.py", "import pkg_resources", "", "the rule for import of pkg_resources"),
        ("detectron2/model_zoo/model_zoo.py", "resource_filename", "other", "the rule for use of pkg_resources"),
    ],
)
def test_a_rule_that_does_not_fit_stops_the_set_up(
    maker: ModuleType, build, tmp_path: Path, path: str, old: str, new: str, message: str
) -> None:
    assert old in SOURCES[path]
    with pytest.raises(maker.WheelError, match=message):
        build(SOURCES | {path: SOURCES[path].replace(old, new)})
    assert not list(tmp_path.glob("wheels/*"))


@pytest.mark.parametrize(
    ("missing", "message"),
    [("LICENSE", "no LICENSE"), ("projects/DeepLab/deeplab/__init__.py", "no package projects/DeepLab/deeplab")],
)
def test_a_missing_part_stops_the_set_up(maker: ModuleType, build, missing: str, message: str) -> None:
    with pytest.raises(maker.WheelError, match=message):
        build({name: text for name, text in SOURCES.items() if name != missing})


def test_the_command_says_in_one_line_what_is_wrong(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), str(tmp_path), "--sdist", str(tmp_path / "none.tar.gz")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"error: detectron2 wheel: cannot read the sdist {tmp_path}/none.tar.gz: No such file or directory"
    ]


def test_what_is_installed_imports() -> None:
    """Whichever of the two builds is installed, the modules that SCORE stands on are there."""
    for module in (
        "data",
        "engine",
        "evaluation",
        "model_zoo",
        "utils.visualizer",
        "projects.point_rend",
        "projects.deeplab",
    ):
        importlib.import_module(f"detectron2.{module}")
