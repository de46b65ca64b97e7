"""The model folder: what is trained, how to build it, its vocabulary, and a card that says where it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import hydra
import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from score.errors import ConfigError, ScoreError, WeightsError
from score.files import write_whole
from score.model.score import SCORE, Resize

WEIGHTS, CONFIG, VOCABULARY, CARD = "model.safetensors", "config.yaml", "vocabulary.yaml", "README.md"
FILES = (WEIGHTS, CONFIG, VOCABULARY, CARD)
CHANGEABLE = ("model.network.", "input.test.", "paths.", "weights")
"""Settings that a trained model is built from; changing another one would change nothing."""
FIXED = ("model.network.train_names", "model.network.prompts")  # in vocabulary.yaml
TRUSTED = "score.model."  # a folder from elsewhere must not be able to name any other code to run


def save(folder: Path, model: SCORE, config: DictConfig, card: Mapping[str, str]) -> None:
    """Write a model folder, each file whole.

    Args:
        folder: made if missing.
        model: a :class:`SCORE`; its frozen towers are named in the card, not written.
        config: the run's; ``config.model.network`` builds the model.
        card: sections of the card, title to Markdown.

    Raises:
        OutputError: the folder cannot be written to.
    """
    state = {name: value.detach().cpu().clone().contiguous() for name, value in model.trainable_state().items()}
    save_config(folder, config)
    vocabulary = {"names": list(model.train_names), "prompts": list(model.text.prompts)}
    text = yaml.safe_dump(vocabulary, sort_keys=False, allow_unicode=True)
    write_whole(folder / VOCABULARY, lambda partial: partial.write_text(text, encoding="utf-8"))
    write_whole(folder / WEIGHTS, lambda partial: save_file(state, partial, metadata={"format": "pt"}))
    save_card(folder, model, config, card)


def save_config(folder: Path, config: DictConfig) -> None:
    """Write ``config.yaml``, every reference resolved but those to what each machine has: ``paths`` and ``weights``."""
    plain = cast(dict[str, Any], OmegaConf.to_container(config, resolve=False))
    own: dict[str, Any] = {key: plain[key] for key in ("paths", "weights") if key in plain}
    kept: dict[str, Any] = {key: _reference(key, value) for key, value in own.items()}
    changed: dict[str, Any] = {**plain, **kept}
    resolved = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.create(changed), resolve=True))
    text = yaml.safe_dump({**resolved, **own}, sort_keys=False, allow_unicode=True)
    write_whole(folder / CONFIG, lambda partial: partial.write_text(text, encoding="utf-8"))


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
        "Use": f"    tools/evaluate.py model={folder} data=DATASET\n\n`{WEIGHTS}` holds the {trained:,} trained "
        "parameters; the frozen towers below are loaded from their own files.",
        **card,
        "Frozen towers": "\n".join(towers),
        "Training vocabulary": ", ".join(model.train_names),
    }
    text = f"# {config.get('name', folder.name)}\n" + "".join(
        f"\n## {k}\n\n{v.rstrip()}\n" for k, v in sections.items()
    )
    write_whole(folder / CARD, lambda partial: partial.write_text(text, encoding="utf-8"))


def load(
    folder: str | Path, device: str | torch.device = "cpu", overrides: Sequence[str] = ()
) -> tuple[SCORE, DictConfig]:
    """Build the model of a folder, in evaluation mode, with its training vocabulary.

    Args:
        folder: a model folder.
        device: where the model goes.
        overrides: changes to its config, such as ``paths.weights=FOLDER``.

    Returns:
        The model and its config.

    Raises:
        WeightsError: a file is missing or damaged, or the weights do not fit the config.
        ConfigError: an override that names nothing.
    """
    folder = Path(folder)
    config = read_config(folder, overrides)
    vocabulary = _read_yaml(folder / VOCABULARY)
    if not {"names", "prompts"} <= vocabulary.keys():
        raise WeightsError(f"cannot read {folder / VOCABULARY} (names or prompts are missing); is it damaged?")
    state = read_weights(folder / WEIGHTS)
    network = config.model.network
    network.train_names, network.prompts = vocabulary["names"], vocabulary["prompts"]
    _check_targets(folder, network)
    model = build(config)
    try:
        model.load_trainable(state)
    except WeightsError as error:
        raise WeightsError(f"{folder / WEIGHTS}: {error}") from error
    return model.to(device).eval(), config


def build(config: DictConfig) -> SCORE:
    """Build the model of a run's config; what its parts complain about is raised as they raised it.

    ``config.model.network`` is all that is instantiated; ``config.input.test`` says the size of images.
    """
    try:
        model: SCORE = hydra.utils.instantiate(config.model.network, _convert_="all")
        model.resize = Resize(config.input.test.shortest, config.input.test.longest)
        return model
    except hydra.errors.InstantiationException as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ScoreError):
            cause = cause.__cause__
        raise (cause or error) from None


def read_config(folder: Path, overrides: Sequence[str] = ()) -> DictConfig:
    """Read ``config.yaml`` and change it; only what is there and has an effect can be changed."""
    for override in overrides:
        key = str(override).partition("=")[0]
        if not key.startswith(CHANGEABLE) or key.startswith(FIXED):
            places = ", ".join(place.rstrip(".") for place in CHANGEABLE)
            raise ConfigError(f"overrides={override}: no effect on a trained model; change settings of {places}")
    config = OmegaConf.create(_read_yaml(folder / CONFIG))
    if "network" not in config.get("model", {}):
        raise WeightsError(f"{folder / CONFIG} holds no model.network; is {folder} a model folder?")
    OmegaConf.set_struct(config, True)
    try:
        config.merge_with_dotlist(list(overrides))
        OmegaConf.resolve(config.model)
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(f"{' '.join(overrides)}: {str(error).splitlines()[0]}; see {folder / CONFIG}") from error
    OmegaConf.set_struct(config, False)
    return config


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
    """Read ``model.safetensors``.

    Raises:
        WeightsError: it is missing or damaged.
    """
    _check_there(path)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"cannot read {path} ({str(error).splitlines()[0]}); is it damaged?") from error


def _check_there(path: Path) -> None:
    if not path.parent.is_dir():
        raise WeightsError(f"no such model folder: {path.parent}; tools/train.py makes one")
    if not path.is_file():
        raise WeightsError(
            f"{path.name} is missing in {path.parent}; a model folder holds {WEIGHTS}, {CONFIG}, {VOCABULARY}"
        )


def _check_targets(folder: Path, node: DictConfig) -> None:
    """Refuse a config that would run code other than the model's own."""
    for target in _targets(OmegaConf.to_container(node)):
        own = target.startswith(TRUSTED)
        if not own or not hydra.utils.get_object(target).__module__.startswith(TRUSTED):
            raise WeightsError(
                f"{folder / CONFIG} would run {target}, which is no part of the model; do not use this folder"
            )


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield str(node["_target_"])
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from _targets(item)
