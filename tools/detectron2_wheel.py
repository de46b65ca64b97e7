"""Make a pure-Python wheel of detectron2 0.5 from its published sdist, without a compiler.

    python tools/detectron2_wheel.py [FOLDER] [--sdist FILE]

detectron2 (Apache-2.0, Copyright Facebook, Inc. and its affiliates) is not on PyPI under its own name, and building
its source needs a compiler that matches torch. SCORE uses none of its compiled operators, so this takes the Python
files of the sdist `detectron2-cdo` 0.5, pinned by hash, applies the rules below, and writes
`detectron2-0.5+pure-py3-none-any.whl`; without FOLDER, that is installed into the Python that runs this. The licence
travels in the wheel, and every changed file says so in its first line. Needs the standard library, and, for the
download, pip, setuptools and torch in the Python that runs it.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

SDIST = "detectron2-cdo==0.5"
SHA256 = "53c9e79e9cc943e80419c588ea44b5479507a8628ed14a4e06bd093e29311b18"
VERSION = "0.5+pure"

# Folder of the sdist -> package of the wheel. The projects stand beside `detectron2/` there; its setup maps them too.
PACKAGES = {
    "detectron2": "detectron2",
    "projects/PointRend/point_rend": "detectron2/projects/point_rend",
    "projects/DeepLab/deeplab": "detectron2/projects/deeplab",
}

# What the kept modules import. Left out of its own list: black, future and pydot (config printing, caffe2 export), and
# the upper bound on iopath, whose 0.1.10 changed nothing that detectron2 calls. torch is the user's choice.
REQUIRES = (
    "Pillow>=7.1",
    "matplotlib",
    "numpy",
    "pycocotools>=2.0.2",
    "termcolor>=1.1",
    "yacs>=0.1.6",
    "tabulate",
    "cloudpickle",
    "tqdm>4.29.0",
    "tensorboard",
    "fvcore>=0.1.5,<0.1.6",
    "iopath>=0.1.7",
    "omegaconf>=2.1",
    "hydra-core>=1.1",
)

STUB = '''"""Stands in for detectron2's compiled operators, which a pure-Python build does not have."""


def get_compiler_version() -> str:
    return "none (pure-Python build)"


def get_cuda_version() -> str:
    return "none (pure-Python build)"


def has_cuda() -> bool:
    return False


def __getattr__(name: str):
    if name.startswith("__"):  # the import system asks for these
        raise AttributeError(name)
    raise ImportError(
        f"detectron2._C.{name}: this is a pure-Python build of detectron2 without its compiled operators. "
        "Install detectron2 from source to use it (DETECTRON2=git); for COCOEvaluator, use_fast_impl=False does, too."
    )
'''


class WheelError(Exception):
    """The sdist is not what the rules expect, or cannot be had."""


@dataclass(frozen=True)
class Rule:
    """A rewrite that must match at least once, in the file `path` of the wheel, or anywhere."""

    name: str
    pattern: str
    replacement: str
    path: str = ""


RULES = (
    Rule("np.bool, gone from numpy 1.24", r"\bnp\.bool\b", "bool"),
    Rule("np.int, gone from numpy 1.24", r"\bnp\.int\b", "int"),
    Rule("np.float, gone from numpy 1.24", r"\bnp\.float\b", "float"),
    Rule("np.str, gone from numpy 1.24", r"\bnp\.str\b", "str"),
    Rule("Image.LINEAR, gone from Pillow 10", r"\bImage\.LINEAR\b", "Image.BILINEAR"),
    Rule(
        "import of pkg_resources, gone from setuptools 81",
        r"^import pkg_resources$",
        "import importlib.resources",
        "detectron2/model_zoo/model_zoo.py",
    ),
    Rule(
        "use of pkg_resources",
        r'pkg_resources\.resource_filename\(\s*"detectron2\.model_zoo", os\.path\.join\("configs", (\w+)\)\s*\)',
        r'str(importlib.resources.files("detectron2.model_zoo").joinpath("configs", \1))',
        "detectron2/model_zoo/model_zoo.py",
    ),
)

# What no file may hold once the rules are applied; `np.object` has no rule, for this sdist has none to rewrite.
FORBIDDEN = re.compile(r"\bnp\.(?:bool|int|float|object|str)\b|\bImage\.LINEAR\b|\bpkg_resources\b")


def fetch(folder: Path) -> Path:
    """Download the sdist into `folder` by pip, which checks the hash before it reads any of it.

    pip asks a sdist for its metadata even to download it, and this one's setup imports torch, hence no build isolation;
    nothing is built. pip 26.3 and newer refuse a sdist that names an address among its extras, hence an older one.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{SDIST} --hash=sha256:{SHA256}\n")
    options = ["--no-deps", "--no-build-isolation", "--no-binary", ":all:", "--require-hashes", "--quiet"]
    older = folder / "older"
    for command in (
        ["install", "--quiet", "--target", str(older), "pip<26"],
        ["download", *options, "--dest", str(folder), "-r", str(requirements)],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "pip", *command],
            env={**os.environ, "PYTHONPATH": str(older)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            print(done.stdout + done.stderr, file=sys.stderr)
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise WheelError(f"pip could not download {SDIST}: {[*errors, 'see its output above'][0]}")
    found = list(folder.glob("*.tar.gz"))
    if len(found) != 1:
        raise WheelError(f"pip download of {SDIST} left {len(found)} archives, expected one")
    return found[0]


def read_sdist(archive: Path) -> dict[str, bytes]:
    """Check the hash of `archive` and return its files by their path below the top folder."""
    try:
        content = archive.read_bytes()
    except OSError as error:
        raise WheelError(f"cannot read the sdist {archive}: {error.strerror}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256:
        raise WheelError(f"{archive.name} has SHA-256 {digest}, expected {SHA256}")
    files = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        for member in tar:
            stream = tar.extractfile(member) if member.isfile() else None
            if stream is not None:
                files[member.name.partition("/")[2]] = stream.read()
    return files


def select(files: dict[str, bytes]) -> dict[str, bytes]:
    """Keep the files of the packages, under the paths they have in the wheel."""
    chosen = {}
    for source, target in PACKAGES.items():
        if f"{source}/__init__.py" not in files:
            raise WheelError(f"the sdist has no package {source}")
        for path, content in files.items():
            if path.startswith(source + "/"):
                chosen[target + path[len(source) :]] = content
    return chosen


def rewrite(files: dict[str, bytes], rules: tuple[Rule, ...] = RULES) -> dict[str, bytes]:
    """Apply every rule; a rule that matches nowhere, or a result that is no Python, is an error."""
    texts = {path: content.decode() for path, content in files.items() if path.endswith(".py")}
    changes: dict[str, list[str]] = {}
    for rule in rules:
        matches = 0
        for path in texts:
            if rule.path in ("", path):
                texts[path], count = re.subn(rule.pattern, rule.replacement, texts[path], flags=re.MULTILINE)
                matches += count
                if count:
                    changes.setdefault(path, []).append(rule.name)
        if not matches:
            raise WheelError(f"the rule for {rule.name} matches nothing in {rule.path or 'any file'}")
    for path, text in texts.items():
        left = FORBIDDEN.search(text)
        if left:
            raise WheelError(f"{path} still holds {left.group()} after all rules")
        try:
            compile(text, path, "exec")
        except SyntaxError as error:
            raise WheelError(f"{path}, line {error.lineno}, is not valid Python: {error.msg}") from error
        if path in changes:
            texts[path] = f"# Changed from detectron2 0.5 by SCORE's set-up: {'; '.join(changes[path])}.\n{text}"
    return files | {path: text.encode() for path, text in texts.items()}


def metadata() -> str:
    lines = [
        "Metadata-Version: 2.1",
        "Name: detectron2",
        f"Version: {VERSION}",
        "Summary: detectron2 0.5 without its compiled operators, made by SCORE's set-up from detectron2-cdo 0.5",
        "Home-page: https://github.com/facebookresearch/detectron2",
        "License: Apache-2.0",
        "License-File: LICENSE",
        "Requires-Python: >=3.7",
        *(f"Requires-Dist: {requirement}" for requirement in REQUIRES),
    ]
    return "\n".join(lines) + "\n"


def write_wheel(files: dict[str, bytes], folder: Path) -> Path:
    """Write the wheel of `files` into `folder`; the same files give the same bytes."""
    info = f"detectron2-{VERSION}.dist-info"
    tags = "Wheel-Version: 1.0\nGenerator: score\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files = files | {f"{info}/METADATA": metadata().encode(), f"{info}/WHEEL": tags.encode()}
    record = []
    for path, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record.append(f"{path},sha256={digest},{len(content)}")
    record.append(f"{info}/RECORD,,")
    files[f"{info}/RECORD"] = ("\n".join(record) + "\n").encode()
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"detectron2-{VERSION}-py3-none-any.whl"
    partial = wheel.with_suffix(".partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            entry = zipfile.ZipInfo(path)  # dated 1980: no clock in the bytes
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
    partial.rename(wheel)
    return wheel


def build(folder: Path, sdist: Path | None = None) -> Path:
    """Make the wheel in `folder`, from `sdist` or from a download, and return its path.

    Raises:
        WheelError: the sdist cannot be had, has another hash, or a rule does not match it.
    """
    with tempfile.TemporaryDirectory() as scratch:
        files = read_sdist(sdist or fetch(Path(scratch)))
    if "LICENSE" not in files:
        raise WheelError("the sdist has no LICENSE")
    chosen = rewrite(select(files))
    chosen["detectron2/_C.py"] = STUB.encode()
    chosen[f"detectron2-{VERSION}.dist-info/LICENSE"] = files["LICENSE"]
    return write_wheel(chosen, folder)


def main() -> int:
    parser = argparse.ArgumentParser(description="Make a pure-Python wheel of detectron2 0.5.")
    parser.add_argument("folder", type=Path, nargs="?", help="where the wheel goes; without it, it is installed here")
    parser.add_argument("--sdist", type=Path, help="the sdist, if it is already here; else pip downloads it")
    arguments = parser.parse_args()
    try:
        if arguments.folder:
            print(build(arguments.folder, arguments.sdist))
        else:
            with tempfile.TemporaryDirectory() as scratch:
                wheel = build(Path(scratch), arguments.sdist)
                subprocess.run([sys.executable, "-m", "pip", "install", str(wheel)], check=True)
    except (WheelError, OSError, subprocess.CalledProcessError) as error:
        print(f"error: detectron2 wheel: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
