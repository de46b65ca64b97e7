"""What can go wrong through no fault of the code: one small hierarchy, one line each.

A message reads ``what, where, what to do``; the tools print it as ``error: <message>`` and exit with 2.
"""


class ScoreError(Exception):
    """Base of every error that is the input's fault rather than the program's."""


class ConfigError(ScoreError):
    """A setting that cannot be: an unknown experiment, a misspelt key, an empty vocabulary."""


class DataError(ScoreError):
    """A dataset or image that cannot be used as it is: missing, unreadable, mislabelled."""


class WeightsError(ScoreError):
    """Weights that are missing, damaged, or of another architecture."""


class OutputError(ScoreError):
    """A place that cannot be written to."""


class InstallError(ScoreError, ImportError):
    """A package that is needed and not installed."""
