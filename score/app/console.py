"""``score COMMAND [KEY=VALUE ...]``: every command of an installed package, and what each is for."""

from __future__ import annotations

import importlib
import sys

from score.app.command import suggest

COMMANDS = [
    "demo",
    "prepare",
    "check_dataset",
    "train",
    "predict",
    "app",
    "change",
    "calibrate",
    "evaluate",
    "benchmark",
    "sweep",
    "report",
    "weights",
    "convert",
    "align",
    "profile",
]


def main() -> None:
    """Run the command that the first word names; without one, or with ``--help`` in its place, list them."""
    word = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if word in COMMANDS:
        del sys.argv[1]
        importlib.import_module(f"score.app.{word}").main()
    elif word in ("-h", "--help"):
        print("score COMMAND [KEY=VALUE ...]\n")
        for name in COMMANDS:
            print(f"  {name:13} {str(importlib.import_module(f'score.app.{name}').__doc__).split(': ')[0]}")
        print("\n`score COMMAND --help` explains its settings.")
    else:
        known = f"no such command{suggest(word, COMMANDS)}; there are {', '.join(COMMANDS)}"
        print(f"error: {word}: {known}", file=sys.stderr)
        sys.exit(2)
