"""A model of the size, with the weights, and on the images that the released code's arrays were recorded with.

``SCORE_PARITY_DIR`` names the folder of recorded arrays; without it these tests are skipped.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from timm.models.convnext import ConvNeXt

import score
from score.model.score import SCORE
from score.model.towers.convnext import ConvNeXtTower
from score.model.towers.vit import ViTTower
from score.weights.released import complete, convert

FOLDER = os.environ.get("SCORE_PARITY_DIR") and str(Path(os.environ["SCORE_PARITY_DIR"]).resolve())
ROWS: list[tuple[str, str, float, float, str]] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not FOLDER or not Path(FOLDER).is_dir():
        skip = pytest.mark.skip(reason="set SCORE_PARITY_DIR to the folder of arrays recorded from the released code")
        for item in items:
            if "parity" in Path(str(item.fspath)).parts:
                item.add_marker(skip)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not ROWS:
        return
    terminalreporter.section("parity with the released code")
    terminalreporter.write_line(f"{'array':<52}{'shape':<20}{'max |diff|':>11}{'rel L2':>10}  tolerance")
    for name, shape, worst, relative, tolerance in ROWS:
        terminalreporter.write_line(f"{name[-51:]:<52}{shape:<20}{worst:>11.1e}{relative:>10.1e}  {tolerance}")


class Case:
    """One folder of recorded arrays."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = json.loads((folder / "config.json").read_text())

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        if not (self.folder / f"{name}.npz").is_file():
            pytest.skip(f"{self.folder.name} has no {name}.npz")
        with np.load(self.folder / f"{name}.npz") as file:
            return {key: file[key] for key in file.files}

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        """Stored exactly in fp16; the token table stored as the rows in use."""
        state = {key: torch.from_numpy(value) for key, value in self.arrays(f"weights_{name}").items()}
        table = "backbone.clip_model.token_embedding.weight"
        if f"{table}.rows" in state:
            rows, ids = state.pop(f"{table}.rows"), state.pop(f"{table}.row_ids").long()
            state[table] = torch.zeros(self.config["sizes_fixed"]["text_vocab"], rows.shape[1]).half()
            state[table][ids] = rows
        return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}

    def inputs(self, arrays: dict[str, np.ndarray]) -> list[dict]:
        return [
            {"image": torch.from_numpy(arrays[f"image{b}"]), "height": size[0], "width": size[1]}
            for b, size in enumerate(self.config["output_sizes"])
        ]


@pytest.fixture(scope="session")
def case() -> Case:
    return Case(Path(FOLDER or ""))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _clip(case: Case, folder: Path, kind: str, precision: str = "fp32") -> torch.nn.Module:
    """An open_clip model of the recorded size."""
    sizes = case.config["sizes"]
    text = {"context_length": 77, "vocab_size": 49408, **sizes["text"]}
    if kind == "backbone":
        vision = {"timm_model_name": "convnext_recorded", "timm_pool": "", "timm_proj": "mlp", "image_size": 320}
    else:
        scene = sizes["scene"]
        vision = {
            "layers": scene["layers"],
            "width": scene["width"],
            "patch_size": scene["patch"],
            "image_size": scene["res"],
        }
        vision["head_width"] = scene["width"] // case.config["sizes_fixed"]["scene_heads"]
    config = {"embed_dim": sizes["E"], "vision_cfg": vision, "text_cfg": text}
    file = folder / f"recorded_{kind}.json"
    file.write_text(json.dumps(config))
    open_clip.add_model_config(file)
    return open_clip.create_model(f"recorded_{kind}", force_quick_gelu=kind == "scene", precision=precision)


def _load(clip: torch.nn.Module, state: dict[str, torch.Tensor], prefix: str) -> set[str]:
    """Load what is recorded; return what the model has beside it."""
    own = {name.removeprefix(prefix): value for name, value in state.items()}
    result = clip.load_state_dict(own, strict=False)
    assert not result.unexpected_keys
    return set(result.missing_keys)


@pytest.fixture(scope="session")
def towers(case: Case, tmp_path_factory: pytest.TempPathFactory) -> tuple[ConvNeXtTower, ViTTower]:
    sizes, folder = case.config["sizes"], tmp_path_factory.mktemp("clip")

    def convnext_recorded(pretrained: bool = False, **kwargs: object) -> ConvNeXt:
        model = ConvNeXt(depths=sizes["depths"], dims=sizes["dims"])
        model.default_cfg = {"pool_size": (7, 7)}
        return model

    convnext_recorded.__module__ = __name__
    sys.modules.setdefault(__name__, sys.modules[Case.__module__])
    timm.models.register_model(convnext_recorded)

    backbone = _clip(case, folder, "backbone")
    missing = _load(
        backbone, {**case.weights("backbone_visual"), **case.weights("backbone_text")}, "backbone.clip_model."
    )
    assert not missing
    scene = _clip(case, folder, "scene")
    missing = _load(scene, case.weights("scene_visual"), "clip_rs.clip_model.")
    assert not any(name.startswith("visual.") for name in missing)
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    return ConvNeXtTower(backbone, tokenizer, "recorded"), ViTTower(scene, tokenizer, "recorded")


@pytest.fixture(scope="session")
def half_scene(case: Case, towers: tuple, tmp_path_factory: pytest.TempPathFactory) -> ViTTower:
    """The scene tower in half precision, as the released pipeline runs it."""
    clip = _clip(case, tmp_path_factory.mktemp("half"), "scene", "fp16")
    _load(clip, case.weights("scene_visual"), "clip_rs.clip_model.")
    return ViTTower(clip, open_clip.get_tokenizer("ViT-B-32"), "recorded")


def size_overrides(case: Case) -> list[str]:
    """The published configuration at the recorded sizes."""
    sizes = case.config["sizes"]
    return [
        f"model.dim={sizes['hidden']}",
        f"model.queries={sizes['queries']}",
        f"model.decoder_layers={sizes['dec_layers'] - 1}",
        f"model.encoder_layers={sizes['enc_layers']}",
        f"model.heads={sizes['nheads']}",
        f"model.network.mask_decoder.feedforward={sizes['dec_ffn']}",
        f"model.network.criterion.points={sizes['points']}",
        f"model.network.selection.top_k={sizes['topk']}",
        f"backbone.embed_dim={sizes['E']}",
        "backbone.channels={" + ",".join(f"res{i + 2}:{c}" for i, c in enumerate(sizes["dims"])) + "}",
        "rai.dropout=0",
    ]


@pytest.fixture
def model(case: Case, towers: tuple[ConvNeXtTower, ViTTower]) -> SCORE:
    """SCORE of the published configuration with the recorded sizes, its trainable weights converted."""
    overrides = [*size_overrides(case), f"model.train_names={[str(n) for n in case.config['train_vocabulary']]}"]
    with initialize_config_dir(str(Path(score.__file__).parent.parent / "configs"), version_base="1.3"):
        config = compose("config", overrides)
    assert list(config.vocabulary.prompts) == case.config["prompts"]
    built = instantiate(config.model.network, backbone=towers[0], scene=towers[1], cache=None, _recursive_=True)
    state = complete(convert(case.weights("trainable")), built.trainable_state(), config.rai.gumbel_calls)
    built.load_trainable(state)
    return built.eval()


def compare(name: str, got: object, recorded: np.ndarray, relative: float = 1e-5, elements: bool = True) -> None:
    """Assert that an array is the recorded one, within rounding, and add a line to the table."""
    if isinstance(got, torch.Tensor):
        got = got.detach().cpu().numpy()
    got = np.asarray(got)
    assert got.shape == recorded.shape, f"{name}: {got.shape} for {recorded.shape}"
    shape = "x".join(map(str, got.shape)) or "scalar"
    if recorded.dtype.kind in "biu":
        differing = int((got != recorded).sum())
        ROWS.append((name, shape, float(differing), 0.0, "equal"))
        assert differing == 0, f"{name}: {differing} entries differ"
        return
    ours, theirs = got.astype(np.float64), recorded.astype(np.float64)
    worst = float(np.abs(ours - theirs).max(initial=0.0))
    gap = float(np.linalg.norm(ours - theirs) / max(np.linalg.norm(theirs), 1e-30))
    if recorded.dtype == np.float16:
        step = np.abs(np.spacing(recorded)).astype(np.float64)
        ROWS.append((name, shape, worst, gap, "one fp16 step"))
        assert (np.abs(ours - theirs) <= step + 1e-4).all(), f"{name}: {worst:.1e} is over a step of fp16"
        return
    ROWS.append((name, shape, worst, gap, f"rel L2 {relative:.0e}"))
    assert gap <= relative, f"{name}: relative L2 {gap:.1e}"
    if not elements:
        return
    close = np.abs(ours - theirs) <= 1e-4 + 1e-4 * np.abs(theirs)
    assert close.all(), f"{name}: {worst:.1e} in {(~close).sum()} entries"


def unpack(arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
    """A boolean array stored as bits."""
    shape = tuple(arrays[f"{name}_shape"])
    return np.unpackbits(arrays[f"{name}_packed"], count=int(np.prod(shape))).reshape(shape).astype(bool)
