"""Read detectron2's ``.pkl`` checkpoints, pickled dictionaries of NumPy arrays, without running what they name."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

# All that such a file needs; anything else that it names is refused before it is imported.
ALLOWED = {
    ("collections", "OrderedDict"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("_codecs", "encode"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


def read_arrays(path: Path) -> Any:
    """Read a pickle of dictionaries, numbers and arrays; arrays become tensors.

    Raises:
        pickle.UnpicklingError: it names anything else, or is no pickle.
        EOFError: it is cut short.
    """
    with path.open("rb") as file:
        return _tensors(_ArraysOnly(file, encoding="latin1").load())  # Python 2 wrote many of the published ones


def _tensors(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tensors(item) for key, item in value.items()}
    return torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value
