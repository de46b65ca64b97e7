"""The notebook runs from its first cell to its last, with the shipped model."""

from __future__ import annotations

from pathlib import Path

import geopandas
import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "docs" / "rasters.ipynb"


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[1]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    found = geopandas.read_file(tmp_path / "found.gpkg", layer="objects")
    assert {"plane", "ship", "house"} <= set(found["class"]) and found.crs.to_epsg() == 32632
    assert (found["class"] == "plane").sum() >= 10 and (tmp_path / "found.html").stat().st_size > 500_000
