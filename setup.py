"""What pyproject.toml cannot say: folders beside the package that travel inside a wheel of it."""

from setuptools import find_packages, setup

BESIDE = ("configs", "datasets", "tools")

setup(
    packages=[*find_packages(include=["score", "score.*"]), *(f"score.{name}" for name in BESIDE)],
    package_dir={f"score.{name}": name for name in BESIDE},
)
