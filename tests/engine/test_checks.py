from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import score
from score.engine import checks
from score.engine.checks import NUMBERS, Number, check_numbers
from score.errors import ConfigError
from score.weights.folder import FILES
from tests.tiny_model import CONFIGS


@pytest.mark.parametrize("value", [2.5, "big", 0, -5, True, None, [1], [], float("inf"), float("nan")])
@pytest.mark.parametrize("key", ["top_k", "input.test.shortest", "optim.batch_size"])
def test_a_count_is_a_whole_number(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{key}=.*: not a whole number of at least 1$"):
        check_numbers(nested(key, value))


@pytest.mark.parametrize("value", [-0.1, 1.1, "0.5", None, [], [0.5, 2], float("nan")])
def test_a_list_holds_numbers_within_bounds(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^alphas=.*: not a number in 0 \.\. 1, or a list of such$"):
        check_numbers(nested("alphas", value))
    check_numbers(nested("alphas", [0, 0.5, 1]))


@pytest.mark.parametrize("value", [float("inf"), float("nan"), -1e-9])
def test_a_rate_is_finite(value: float) -> None:
    with pytest.raises(ConfigError, match=r"optim\.lr="):
        check_numbers(nested("optim.lr", value))


def test_a_command_may_take_more_than_others_do() -> None:
    check_numbers(nested("top_k", None), top_k=Number(int, 1, optional=True))
    check_numbers(nested("top_k", [100, 300]), top_k=Number(int, 1, many=True))
    with pytest.raises(ConfigError, match=r"top_k=\[100, 0\]: not a whole number of at least 1, or a list of such"):
        check_numbers(nested("top_k", [100, 0]), top_k=Number(int, 1, many=True))


@pytest.mark.parametrize(
    "name", ["config", *(f"commands/{p.stem}" for p in (CONFIGS / "commands").glob("*.yaml")), "align"]
)
def test_every_number_that_a_user_may_set_has_bounds(name: str) -> None:
    free = ("optim.decay.", "model.", "rai.", "gca.", "backbone.", "scene.", "data.")  # checked where they are built
    text = (CONFIGS / f"{name}.yaml").read_text()
    keys = numbers(yaml.safe_load(text) if name != "config" else composed())
    known = {*NUMBERS, *own_numbers(name.removeprefix("commands/"))}
    assert not [key for key in keys if key not in known and not key.startswith(free)]


def own_numbers(command: str) -> set[str]:
    """What a command's call of `check_numbers` names itself."""
    path = Path(score.__file__).parent / "app" / f"{command}.py"
    tree = ast.parse(path.read_text() if path.exists() else "")
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    named = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "check_numbers"]
    return {str(keyword.arg) for call in named for keyword in call.keywords}


def composed() -> Any:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return OmegaConf.to_container(compose("config"), resolve=False)


def numbers(node: Any, prefix: str = "") -> list[str]:
    if isinstance(node, dict):
        return [key for name, item in node.items() for key in numbers(item, f"{prefix}.{name}".lstrip("."))]
    values = node if isinstance(node, list) and node else [node]
    return [prefix] if all(type(value) in (int, float) for value in values) else []


def nested(key: str, value: Any) -> Any:
    """A config that holds one setting."""
    config = OmegaConf.create({})
    OmegaConf.update(config, key, value, force_add=True)
    return config


def test_overwriting_removes_what_a_run_and_its_studies_write(tmp_path: Path) -> None:
    folders = ("checkpoints", "evaluation", "pictures", "benchmark/own", "sweep", "predictions")
    for name in (*(f"{folder}/file" for folder in folders), "metrics.json", "events.out.tfevents.1", *FILES, "notes"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    checks.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]
