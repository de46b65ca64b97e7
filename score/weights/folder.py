"""The model folder: what is trained, how to build it, its vocabulary, and a card that says where it comes from."""

from __future__ import annotations

import hashlib
import importlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from score.errors import ConfigError, ScoreError, WeightsError
from score.files import sha256, write_text, write_whole
from score.model.score import SCORE, Calibration, Resize

logger = logging.getLogger(__name__)
WEIGHTS, CONFIG, VOCABULARY, CARD = "model.safetensors", "config.yaml", "vocabulary.yaml", "README.md"
FILES = (WEIGHTS, CONFIG, VOCABULARY, CARD)
CALIBRATION = "calibration.yaml"  # in a folder whose model has been calibrated
CHANGEABLE = ("model.network.", "input.test.", "paths.", "weights")
"""Settings that a trained model is built from; changing another one would change nothing."""
FIXED = ("model.network.train_names", "model.network.prompts")  # in vocabulary.yaml
TRUSTED = "score.model."  # a folder from elsewhere must not be able to name any other code to run ...
FACTORIES = ("score.model.towers.open_clip.open_clip_tower",)  # ... than its classes and these functions


def save(folder: Path, model: SCORE, config: DictConfig, card: Mapping[str, str]) -> None:
    """Write a model folder, each file whole.

    Args:
        model: a :class:`SCORE`; its frozen towers are named in the card, not written.
        config: the run's; ``config.model.network`` builds the model, ``config.half`` writes it in 16 bits.
        card: sections of the card, title to Markdown.

    Raises:
        OutputError: the folder cannot be written to.
        WeightsError: a weight is too large for 16 bits.
    """
    state = {name: value.detach().cpu().clone().contiguous() for name, value in model.trainable_state().items()}
    if config.get("half"):
        state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
        if large := [name for name, value in state.items() if not value.isfinite().all()]:
            raise WeightsError(f"{large[0]} is too large for 16 bits; write the model with half=false")
    save_config(folder, config)
    vocabulary = {"names": list(model.train_names), "prompts": list(model.text.prompts)}
    write_text(folder / VOCABULARY, yaml.safe_dump(vocabulary, sort_keys=False, allow_unicode=True))
    save_weights(folder, state)
    save_card(folder, model, config, card)


def save_weights(folder: Path, state: Mapping[str, torch.Tensor]) -> None:
    """Write ``model.safetensors``, with a hash of its content in it."""
    facts = {"format": "pt", "sha256": _digest(state)}
    write_whole(folder / WEIGHTS, lambda partial: save_file(dict(state), partial, metadata=facts))


def save_config(folder: Path, config: DictConfig) -> None:
    """Write ``config.yaml``, every reference resolved but those to what each machine has: ``paths`` and ``weights``."""
    plain = cast(dict[str, Any], OmegaConf.to_container(config, resolve=False))
    own: dict[str, Any] = {key: plain[key] for key in ("paths", "weights") if key in plain}
    kept: dict[str, Any] = {key: _reference(key, value) for key, value in own.items()}
    changed: dict[str, Any] = {**plain, **kept}
    resolved = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.create(changed), resolve=True))
    write_text(folder / CONFIG, yaml.safe_dump({**resolved, **own}, sort_keys=False, allow_unicode=True))


def _reference(key: str, value: Any) -> Any:
    """What resolves to a reference to ``key``, as text."""
    if isinstance(value, dict):
        return {name: _reference(f"{key}.{name}", item) for name, item in value.items()}
    return rf"\${{{key}}}"


def save_card(folder: Path, model: SCORE, config: DictConfig, card: Mapping[str, str]) -> None:
    """Write ``README.md``: title, use, the given sections, and the frozen towers by name."""
    towers = [f"- backbone: {model.backbone.identity}"]
    towers += [f"- scene encoder: {model.scene.identity}"] if model.scene is not None else []
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    sections = {
        "Use": f"    score evaluate model={folder} data=DATASET\n\n`{WEIGHTS}` holds the {trained:,} trained "
        "parameters; the frozen towers below are loaded from their own files.",
        **card,
        "Frozen towers": "\n".join(towers),
        "Training vocabulary": ", ".join(model.train_names),
    }
    text = f"# {config.get('name', folder.name)}\n" + "".join(
        f"\n## {k}\n\n{v.rstrip()}\n" for k, v in sections.items()
    )
    write_text(folder / CARD, text)


def load(
    folder: str | Path, device: str | torch.device = "cpu", overrides: Sequence[str] = ()
) -> tuple[SCORE, DictConfig]:
    """Build the model of a folder, in evaluation mode, with its training vocabulary.

    Args:
        overrides: changes to its config, such as ``paths.weights=FOLDER``.

    Returns:
        The model and its config.

    Raises:
        WeightsError: a file is missing or damaged, or the weights do not fit the config.
        ConfigError: an override that names nothing.
    """
    folder = Path(folder)
    config = read_config(folder, overrides)
    state = read_weights(folder / WEIGHTS)
    for target in _targets(OmegaConf.to_container(config.model.network, resolve=True)):
        if not (str(target).startswith(TRUSTED) and (target in FACTORIES or isinstance(_find(target), type))):
            raise WeightsError(
                f"{folder / CONFIG} would run {target}, which is no part of the model; do not use this folder"
            )
    model = build(config)
    try:
        model.load_trainable(state)
    except WeightsError as error:
        raise WeightsError(f"{folder / WEIGHTS}: {error}") from error
    if (folder / CALIBRATION).is_file():
        model.calibration = read_calibration(folder)
    model.weights = sha256(folder / WEIGHTS)[:16]
    return model.to(device).eval(), config


def read_calibration(folder: Path) -> Calibration:
    """Read ``calibration.yaml``, as ``score calibrate`` writes it; one of other weights is left aside with a warning.

    Raises:
        WeightsError: it is damaged.
    """
    path = folder / CALIBRATION
    content = _read_yaml(path)
    values: list[Any] = [content.get(key) for key in ("seen", "unseen")]
    words = content.get("distractors", [])
    if not all(type(value) in (int, float) and 0 <= value <= 1 for value in values) or not isinstance(words, list):
        raise WeightsError(f"cannot read {path} (seen and unseen are no scores in 0 .. 1); calibrate the model anew")
    if content.get("weights") != sha256(folder / WEIGHTS):
        logger.warning("%s is of other weights, and left aside; run score calibrate again", path)
        return Calibration()
    return Calibration(float(values[0]), float(values[1]), tuple(map(str, words)))


def build(config: DictConfig) -> SCORE:
    """Build the model of a run's config; what its parts complain about is raised as they raised it.

    ``config.model.network`` is all that is instantiated; ``config.input.test`` says the size of images.

    Raises:
        ConfigError: a part cannot be built so, or the size is none.
    """
    model: SCORE = _make(OmegaConf.to_container(config.model.network, resolve=True))
    for key in Resize._fields:
        if type(value := config.input.test[key]) is not int or value < 1:
            raise ConfigError(f"input.test.{key}={value}: not a whole number of at least 1")
    model.resize = Resize(config.input.test.shortest, config.input.test.longest)
    return model


def _make(node: Any) -> Any:
    """Build what has a ``_target_``, innermost first; unlike Hydra's own this knows no other key and no reference."""
    if isinstance(node, list):
        return [_make(item) for item in node]
    if not isinstance(node, dict):
        return node
    made = {key: _make(value) for key, value in node.items() if key != "_target_"}
    if "_target_" not in node:
        return made
    try:
        return _find(node["_target_"])(**made)
    except ScoreError:
        raise
    except Exception as error:
        raise ConfigError(f"{node['_target_']} cannot be built ({' '.join(str(error).split())})") from error


def _find(target: Any) -> Any:
    """What stands at the top of a module under a name such as ``score.model.score.SCORE``, None if nothing does."""
    module, _, name = str(target).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except (ImportError, ValueError, TypeError):
        return None
    return found if getattr(found, "__module__", None) == module else None


def read_config(folder: Path, overrides: Sequence[str] = ()) -> DictConfig:
    """Read ``config.yaml`` and ``vocabulary.yaml``; only what is there and has an effect can be changed."""
    for override in overrides:
        key = str(override).partition("=")[0]
        if not key.startswith(CHANGEABLE) or key.startswith(FIXED):
            places = ", ".join(place.rstrip(".") for place in CHANGEABLE)
            raise ConfigError(f"overrides={override}: no effect on a trained model; change settings of {places}")
    content, vocabulary = _read_yaml(folder / CONFIG), _read_vocabulary(folder / VOCABULARY)
    try:
        content["model"]["network"].update(vocabulary)
        content["model"]["train_names"] = vocabulary["train_names"]
    except (KeyError, TypeError, AttributeError):
        raise WeightsError(f"{folder / CONFIG} holds no model.network; is {folder} a model folder?") from None
    config = OmegaConf.create(content)
    OmegaConf.set_struct(config, True)
    try:
        config.merge_with_dotlist(list(overrides))
        OmegaConf.to_container(config.model, resolve=True)
    except (OmegaConfBaseException, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{' '.join(overrides)}: {str(error).splitlines()[0]}; see {folder / CONFIG}") from error
    OmegaConf.set_struct(config, False)
    return config


def literal(text: str) -> str:
    """A text as a config has to hold it, in which ``${...}`` refers to nothing."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def _read_vocabulary(path: Path) -> dict[str, list[str]]:
    """The network's settings that stand in a file of their own."""
    found = _read_yaml(path)
    for key in ("names", "prompts"):
        if not isinstance(found.get(key), list) or not all(isinstance(text, str) for text in found[key]):
            raise WeightsError(f"cannot read {path} ({key} is no list of texts); is it damaged?")
    return {
        "train_names": [literal(name) for name in found["names"]],
        "prompts": [literal(prompt) for prompt in found["prompts"]],
    }


def _read_yaml(path: Path) -> dict[str, Any]:
    _check_there(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise WeightsError(f"cannot read {path} ({str(error).splitlines()[0]}); is it damaged?") from error
    if not isinstance(content, dict):
        raise WeightsError(f"cannot read {path} (not a mapping); is it damaged?")
    return content


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read ``model.safetensors``, and compare its content with the hash that is kept in it.

    Raises:
        WeightsError: it is missing or damaged.
    """
    _check_there(path)
    try:
        with safe_open(path, "pt") as file:
            state, facts = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"cannot read {path} ({str(error).splitlines()[0]}); is it damaged?") from error
    if facts.get("sha256") not in (None, _digest(state)):
        raise WeightsError(f"cannot read {path} (another SHA-256 than when it was written); is it damaged?")
    return state


def _digest(state: Mapping[str, torch.Tensor]) -> str:
    """A SHA-256 of names, types, shapes and values."""
    total = hashlib.sha256()
    for name, value in sorted(state.items()):
        total.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        total.update(value.flatten().view(torch.uint8).numpy())
    return total.hexdigest()


def _check_there(path: Path) -> None:
    if not path.parent.is_dir():
        raise WeightsError(f"no such model folder: {path.parent}; score train makes one, score weights gets one")
    if not path.is_file():
        raise WeightsError(
            f"{path.name} is missing in {path.parent}; a model folder holds {WEIGHTS}, {CONFIG}, {VOCABULARY}"
        )


def _targets(node: Any) -> Iterator[Any]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield node["_target_"]
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from _targets(item)
