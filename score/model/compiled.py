"""Parts of the network through ``torch.compile``: for images of one size, and where it is faster."""

from __future__ import annotations

import functools
import logging
import time
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from score.errors import ConfigError

logger = logging.getLogger(__name__)
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@functools.cache
def check_compiler(device: torch.device) -> None:
    """Make sure by a trial that ``torch.compile`` works on a device.

    Raises:
        ConfigError: it does not; on a CPU it needs a C++ compiler.
    """
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it would say that there is no GPU
    warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru_cache`")  # of pure functions
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(8, device=device))
    except Exception as error:  # of PyTorch, of the compiler, or of what these run
        lines = str(error).partition("\n\n")[0].splitlines() or [type(error).__name__]
        raise ConfigError(
            f"runtime.compile=true: torch.compile does not work here ({lines[-1]}); install a C++ compiler, as g++, "
            "or leave it out"
        ) from None
    logger.info("compile: for the size of the first images, which takes minutes; those of other sizes run without")


def for_first_size(
    function: Callable[Arguments, Result], name: str, shares: dict[str, float]
) -> Callable[Arguments, Result]:
    """The same pure function, compiled for the sizes that it is first called with, if that makes it faster.

    Of other sizes it runs as it is: to compile each anew takes minutes, and code for any size is hardly faster.

    Args:
        function: of tensors alone, and always the same of the same ones.
        name: what to call it.
        shares: gets the time that it takes compiled, as a share of the time without, by its name.
    """
    fast, stance = torch.compile(function, dynamic=False), "default"

    @functools.wraps(function)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        nonlocal stance
        if shares.get(name, 0) >= 1:
            return function(*args, **kwargs)
        with torch.compiler.set_stance(stance):
            result = fast(*args, **kwargs)
        if stance == "default":
            stance = "eager_on_recompile"
            shares[name] = _share(functools.partial(run, *args, **kwargs), functools.partial(function, *args, **kwargs))
            kept = ", and is not used" if shares[name] >= 1 else ""
            logger.info(f"compile: {name} takes {shares[name]:.2f} of the time{kept}")
        return result

    return run


def _share(one: Callable[[], object], other: Callable[[], object]) -> float:
    """The time of one call, as a share of another's; in turn, for a machine may do other things as well."""
    seconds: dict[Callable[[], object], list[float]] = {one: [], other: []}
    for _ in range(5):
        for call, taken in seconds.items():
            start = time.perf_counter()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - start)
    return min(seconds[one]) / min(seconds[other])
