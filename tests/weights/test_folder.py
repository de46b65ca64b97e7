from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from score.errors import ConfigError, OutputError, ScoreError, WeightsError
from score.weights.folder import literal, load, save
from tests.tiny_model import tiny_config, tiny_folder, tiny_model

NAMES = ["ship", "storage_tank"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("saved") / "model", NAMES)


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def one_line(error: BaseException) -> str:
    assert "\n" not in str(error)
    return str(error)


def edit(path: Path, change: Callable[[dict], None]) -> None:
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content))


def test_round_trip_gives_the_same_model(tmp_path: Path) -> None:
    model, config = tiny_model(NAMES, seed=3)
    save(tmp_path / "a" / "b", model, config, {})
    again, _ = load(tmp_path / "a" / "b")
    assert not again.training
    assert again.train_names == NAMES
    assert again.resize == model.resize == (512, 800)
    image = {"image": torch.randint(0, 256, (3, 64, 96), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)}
    first, second = model([image])[0]["instances"], again([image])[0]["instances"]
    assert torch.equal(first.scores, second.scores)
    assert torch.equal(first.pred_masks, second.pred_masks)
    for name, value in model.trainable_state().items():
        assert torch.equal(value, again.trainable_state()[name]), name


def test_half_the_size_gives_nearly_the_same_model(tmp_path: Path) -> None:
    model, config = tiny_model(NAMES)
    save(tmp_path / "full", model, config, {})
    config.half = True
    save(tmp_path / "half", model, config, {})
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    again, _ = load(tmp_path / "half")
    for name, value in model.trainable_state().items():
        torch.testing.assert_close(again.trainable_state()[name], value, rtol=1e-3, atol=1e-6)
    with torch.no_grad():
        model.classifier.log_scale.fill_(1e5)
    with pytest.raises(WeightsError, match=r"classifier.log_scale is too large for 16 bits"):
        save(tmp_path / "large", model, config, {})
    assert not (tmp_path / "large" / "model.safetensors").exists()


def test_frozen_towers_are_named_not_written(saved: Path) -> None:
    assert not [name for name in load_file(saved / "model.safetensors") if name.startswith(("backbone", "scene"))]
    card = (saved / "README.md").read_text()
    assert "backbone: tiny: random" in card
    assert "scene encoder: tiny: random" in card


def test_vocabulary_and_prompts_are_readable(saved: Path) -> None:
    vocabulary = yaml.safe_load((saved / "vocabulary.yaml").read_text())
    assert vocabulary["names"] == NAMES
    assert vocabulary["prompts"][0] == "satellite imagery of {}."


def test_config_is_resolved_but_for_the_machines_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, config = tiny_model(NAMES, "paths.cache=${oc.env:SCORE_CACHE,null}")
    save(tmp_path / "model", model, config, {})
    written = yaml.safe_load((tmp_path / "model" / "config.yaml").read_text())
    assert written["model"]["network"]["pixel_decoder"]["dim"] == written["model"]["dim"]
    assert written["model"]["network"]["cache"] == "${paths.cache}"
    monkeypatch.setenv("SCORE_CACHE", str(tmp_path / "elsewhere"))
    again, _ = load(tmp_path / "model")
    assert again.text.cache == tmp_path / "elsewhere"


def test_overrides_change_the_model(folder: Path) -> None:
    model, _ = load(folder, overrides=["model.network.selection.top_k=7"])
    assert model.selection.top_k == 7


def test_a_misspelt_override_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load(folder, overrides=["model.network.selection.topk=7"])
    assert "topk" in one_line(error.value)


@pytest.mark.parametrize("name", ["model.safetensors", "config.yaml", "vocabulary.yaml"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(WeightsError) as error:
        load(folder)
    assert one_line(error.value).startswith(f"{name} is missing in {folder}")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no such model folder: .*nowhere"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["model.safetensors", "config.yaml", "vocabulary.yaml"])
def test_a_damaged_file_is_named(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"\x00{broken")
    with pytest.raises(WeightsError) as error:
        load(folder)
    assert one_line(error.value).startswith(f"cannot read {folder / name}")


def test_a_vocabulary_without_names_is_refused(folder: Path) -> None:
    edit(folder / "vocabulary.yaml", lambda content: content.pop("names"))
    with pytest.raises(WeightsError, match=r"vocabulary\.yaml"):
        load(folder)


def test_truncated_weights_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"cannot read .*model\.safetensors"):
        load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("classifier.void"), "classifier.void is missing"),
        (lambda state: state.update(extra=torch.zeros(1)), "unexpected extra"),
        (lambda state: state.update({"classifier.void": torch.zeros(1, 5)}), "classifier.void has shape (1, 5)"),
    ],
)
def test_weights_of_another_architecture_name_the_first_mismatch(
    folder: Path, change: Callable[[dict], None], message: str
) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(WeightsError) as error:
        load(folder)
    assert message in one_line(error.value)
    assert "another architecture" in str(error.value)


def test_a_config_without_a_model_is_no_model_folder(folder: Path) -> None:
    edit(folder / "config.yaml", lambda content: content.pop("model"))
    with pytest.raises(WeightsError, match=r"holds no model\.network"):
        load(folder)


def plant(folder: Path, node: object) -> None:
    """Put a node into a folder's config, where the model keeps its selection."""
    edit(folder / "config.yaml", lambda content: content["model"]["network"].update(selection=node))


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "score.model.towers.open_clip.os.getcwd",
        "score.files.write_whole",
        "score.model.towers.projection.Projection.save",
        "score.model.towers.open_clip.find_weights",
        "score.model.vocabulary.Path",
        "score.model.vocabulary",
        "score.model.nothing.Nothing",
        "score.model.criterion.Nothing",
        "score.model..os",
        "Ensemble",
        7,
    ],
)
def test_a_folder_cannot_run_foreign_code(folder: Path, target: object) -> None:
    plant(folder, [{"deeper": {"_target_": target, "_partial_": True}}])
    with pytest.raises(WeightsError, match=f"would run {target}") as error:
        load(folder)
    one_line(error.value)


@pytest.mark.parametrize("reference", ["${model.evil}", "${oc.decode:'${model.evil}'}", "${oc.create:${model.evil}}"])
def test_no_reference_hides_code_that_would_run(folder: Path, reference: str) -> None:
    evil = {"_target_": "pathlib.Path.mkdir", "self": {"_target_": "pathlib.Path", "_args_": [str(folder / "made")]}}
    edit(folder / "config.yaml", lambda content: content["model"].update(evil=evil))
    edit(folder / "vocabulary.yaml", lambda content: content.update(names=[reference]))
    assert load(folder)[0].train_names == [reference]  # a name is a name
    plant(folder, reference)
    with pytest.raises(ScoreError) as error:
        load(folder)
    one_line(error.value)
    assert not (folder / "made").exists()


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "score.model.postprocess.InstanceSelection", "_args_": [1]},
        {"_target_": "score.model.postprocess.InstanceSelection", "_partial_": True},
        {"_target_": "score.model.postprocess.InstanceSelection", 5: 1},
        "${model.network.selection}",
        "${nothing:1}",
    ],
)
def test_what_cannot_be_built_is_one_line(folder: Path, node: object) -> None:
    plant(folder, node)
    with pytest.raises(ScoreError) as error:
        load(folder)
    one_line(error.value)


@pytest.mark.parametrize("value", [0, -5, "big", 1.5, None])
def test_a_size_that_is_none_is_refused(folder: Path, value: object) -> None:
    edit(folder / "config.yaml", lambda content: content["input"]["test"].update(shortest=value))
    with pytest.raises(ConfigError, match=f"input.test.shortest={value}: not a whole number of at least 1"):
        load(folder)


@pytest.mark.parametrize("names", [["ship", {"_target_": "os.getcwd"}], "ship", [None], [7]])
def test_names_are_texts(folder: Path, names: object) -> None:
    edit(folder / "vocabulary.yaml", lambda content: content.update(names=names))
    with pytest.raises(WeightsError, match=r"vocabulary\.yaml"):
        load(folder)


@pytest.mark.parametrize("name", ["${oc.env:HOME}", "${", "a}", "\\${x}", r"a\\${x} \ b${y}", "${a${b}}", "c\\"])
def test_names_are_taken_literally(tmp_path: Path, name: str) -> None:
    model, config = tiny_model(["ship", literal(name)])
    save(tmp_path / "model", model, config, {})
    again, config = load(tmp_path / "model")
    assert model.train_names == again.train_names == ["ship", name]
    save(tmp_path / "again", again, config, {})
    assert load(tmp_path / "again")[0].train_names == ["ship", name]


def test_any_changed_weight_is_told(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-999] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"cannot read .*model\.safetensors \(another SHA-256"):
        load(folder)


def test_an_empty_vocabulary_is_refused(folder: Path) -> None:
    edit(folder / "vocabulary.yaml", lambda content: content.update(names=[]))
    with pytest.raises(ScoreError, match="empty vocabulary"):
        load(folder)


def test_a_place_that_cannot_be_written_is_named() -> None:
    model, config = tiny_model(NAMES)
    with pytest.raises(OutputError, match="cannot write /proc/score"):
        save(Path("/proc/score"), model, config, {})


def test_model_without_scene_encoder_round_trips(tmp_path: Path) -> None:
    config = tiny_config("scene=off", "rai=off", "gca=off")
    assert config.rai is None
    folder = tiny_folder(tmp_path / "plain", NAMES, "scene=off", "rai=off", "gca=off")
    model, _ = load(folder)
    assert model.scene is None
    assert model.rai is None
