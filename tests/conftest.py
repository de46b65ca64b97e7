"""What all tests share: the folders that the environment names, and no network."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# Before any test module imports what reads them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its warning about forked data workers, otherwise

import pytest

DATASETS = "SCORE_DATASETS"
PARITY = "SCORE_PARITY_DIR"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not os.environ.get(DATASETS):
        for item in items:
            if item.get_closest_marker("data"):
                item.add_marker(pytest.mark.skip(reason=f"needs real data: set {DATASETS} to the folder of datasets"))


def _folder(variable: str) -> Path:
    """The folder that an environment variable names; a wrong one is an error, for skipping would hide it."""
    folder = Path(os.environ[variable])
    if not folder.is_dir():
        pytest.fail(f"{variable}={folder}: no such folder", pytrace=False)
    return folder.resolve()


def _forget_datasets() -> Iterator[None]:
    """Datasets registered meanwhile are gone afterwards: the next test's set of the same name keeps its name."""

    def catalogs() -> list[dict]:
        data = sys.modules.get("detectron2.data")
        return [data.DatasetCatalog, data.MetadataCatalog] if data else []

    before = [set(catalog) for catalog in catalogs()] or [set(), set()]
    yield
    for catalog, known in zip(catalogs(), before, strict=False):
        for name in set(catalog) - known:
            catalog.pop(name)


_of_a_test = pytest.fixture(autouse=True)(_forget_datasets)
_of_a_module = pytest.fixture(autouse=True, scope="module")(_forget_datasets)


@pytest.fixture
def disk_full() -> Iterator[Callable[[int], None]]:
    """``disk_full(100)``: from then on no file takes more than 100 bytes, as where a disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="session")
def datasets_root() -> Path:
    """The root of the real datasets; for tests marked `data`."""
    return _folder(DATASETS)


@pytest.fixture(scope="session")
def parity_dir() -> Path:
    """The folder of recorded arrays; a test that asks for it is skipped where there is none."""
    if not os.environ.get(PARITY):
        pytest.skip(f"needs recorded arrays: set {PARITY} to their folder")
    return _folder(PARITY)
