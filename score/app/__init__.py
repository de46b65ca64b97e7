"""What a person starts: commands over files."""

import sys
from types import TracebackType

_shown = sys.excepthook


def _silent(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Show what ends the program, but not Ctrl-C, which can come before a command is at work."""
    if not issubclass(kind, KeyboardInterrupt):
        _shown(kind, error, traceback)


sys.excepthook = _silent
