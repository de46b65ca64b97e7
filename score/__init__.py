"""SCORE: open-vocabulary instance segmentation of remote sensing images with scene context.

>>> import score
>>> segmenter = score.Segmenter.from_pretrained()
>>> result = segmenter.segment("harbour.jpg", ["ship", "storage tank", "swimming pool"])
>>> result.save("found.jpg")  # result.detections: name, score, mask, box (x, y, width, height) and area of each
"""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

    from score.model.score import SCORE
    from score.result import Result
    from score.segmenter import Segmenter

__version__ = "0.1.0"
DISTRIBUTION = "score-segmenter"  # what pip calls this package: `score` on PyPI is another's
__all__ = ["DISTRIBUTION", "Result", "Segmenter", "__version__", "load_model"]


# PyTorch takes large tensors in huge pages, where Linux has them on demand: the kernel's work on fresh memory, most of
# what an elementwise operation on a CPU costs, shrinks to a third. It reads this at its first tensor.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

# detectron2 and fvcore use what torch calls outdated, at every start
warnings.filterwarnings("ignore", message=r"`torch\.(jit|cuda\.amp)\.", category=FutureWarning)
# said once by the gradient of deformable attention, which needs no more of it than products of sampled cells
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state", category=UserWarning)


class _Registers(MetaPathFinder):
    """Enters SCORE into detectron2's registry of meta-architectures as soon as detectron2 has one, not before."""

    def find_spec(self, name: str, *_: Any) -> ModuleSpec | None:
        """Find detectron2's models as the others would, and let ours follow them."""
        if name != "detectron2.modeling":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec and spec.loader:
            load = spec.loader.exec_module

            def load_both(module: Any) -> None:
                load(module)
                importlib.import_module("score.model.score")

            spec.loader.exec_module = load_both  # type: ignore[method-assign]
        return spec


if "detectron2.modeling" in sys.modules:
    importlib.import_module("score.model.score")
else:
    sys.meta_path.insert(0, _Registers())


def load_model(folder: str | Path = "lite", device: str | None = None) -> SCORE:
    """Load a model folder, ready for inference.

    Args:
        folder: what training wrote: ``model.safetensors``, ``config.yaml``, ``vocabulary.yaml``; or a known model's
            name: ``lite`` is shipped, ``fcclip_coco`` can be fetched.
        device: as PyTorch names it; None for a GPU where there is one, the CPU otherwise.

    Returns:
        The model in evaluation mode.

    Raises:
        ConfigError: there is no such device.
        WeightsError: the folder or its towers' weights are missing, damaged, or of another architecture.
    """
    from score.runtime import select_device
    from score.weights import known
    from score.weights.folder import load

    model, _ = load(known.find(folder), select_device(device or "auto"))
    return model


def __getattr__(name: str) -> object:
    # PyTorch and detectron2 take seconds to import: not before they are needed
    if name == "Segmenter":
        try:
            from score.segmenter import Segmenter
        except ModuleNotFoundError as error:
            from score.files import not_installed

            raise not_installed(error) from error
        return Segmenter
    if name == "Result":
        from score.result import Result

        return Result
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
