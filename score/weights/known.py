"""Models that go by a name: shipped in the package, or fetched into this user's cache by ``score weights``."""

from __future__ import annotations

from pathlib import Path

from score.errors import WeightsError
from score.files import shipped, user_folder
from score.weights.folder import WEIGHTS

RELEASED = shipped("configs") / "released"  # a file for each model that can be fetched
SHIPPED = {"lite": Path(__file__).with_name("lite")}  # model folders inside the package, by name


def names() -> list[str]:
    """Every known name."""
    return [*SHIPPED, *sorted(path.stem for path in RELEASED.glob("*.yaml"))]


def place(name: str) -> Path:
    """Where a known model is, or will be once it is fetched."""
    return SHIPPED.get(name, user_folder("models") / name)


def find(model: str | Path) -> Path:
    """What a ``model=`` or ``init=`` argument means: the path of a model folder or checkpoint, or a known name.

    Raises:
        WeightsError: the model of a known name has not been fetched.
    """
    path = Path(model).expanduser()
    name = str(model)
    if path.is_file() or (path / WEIGHTS).is_file() or name not in names():  # a folder of one's own goes first
        return path
    if not (place(name) / WEIGHTS).is_file():
        raise WeightsError(f"{name} has not been fetched; score weights fetch {name} gets it")
    return place(name)
