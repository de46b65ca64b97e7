"""Known models: fetched from a server that runs here, converted, and asked by their names."""

from __future__ import annotations

import hashlib
import io
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import score
from score.app.weights import fetch_model
from score.errors import WeightsError
from score.files import shipped
from score.model.towers.open_clip import find_weights
from score.weights import known, registry
from score.weights.start import initialise
from tests.tiny_model import tiny_config, tiny_folder, tiny_model
from tests.tools.command_line import Call, call, files, score_command  # noqa: F401 - fixtures
from tests.weights.test_registry import Hub, hub  # noqa: F401 - a fixture

DIM, EMBED, QUERIES, LAYERS = 64, 32, 7, 2  # the published: 256, 768, 250 or 100, 9 and 6
CLIP = {"res2": 8, "res3": 16, "res4": 32, "res5": 64}
RESNET = {"res2": 16, "res3": 32, "res4": 64, "res5": 128}
TINY = (
    "model=small", f"model.dim={DIM}", f"model.decoder_layers={LAYERS}", f"model.encoder_layers={LAYERS}",
    f"model.queries={QUERIES}", "backbone=tiny",
)  # fmt: skip


def linear(name: str, output: int, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (output, width), f"{name}.bias": (output,)}


def norm(name: str) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (DIM,), f"{name}.bias": (DIM,)}


def mask2former(channels: dict[str, int], feedforward: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of Mask2Former's pixel decoder and transformer decoder, as detectron2 saves them."""
    pixel, head = "sem_seg_head.pixel_decoder", "sem_seg_head.predictor"
    shapes: dict[str, tuple[int, ...]] = {}
    for index, level in enumerate(("res5", "res4", "res3")):
        shapes |= {f"{pixel}.input_proj.{index}.0.weight": (DIM, channels[level], 1, 1)}
        shapes |= {f"{pixel}.input_proj.{index}.0.bias": (DIM,), **norm(f"{pixel}.input_proj.{index}.1")}
    shapes[f"{pixel}.transformer.level_embed"] = (3, DIM)
    for index in range(LAYERS):
        layer = f"{pixel}.transformer.encoder.layers.{index}"
        shapes |= linear(f"{layer}.self_attn.sampling_offsets", 8 * 3 * 4 * 2, DIM)
        shapes |= linear(f"{layer}.self_attn.attention_weights", 8 * 3 * 4, DIM)
        shapes |= linear(f"{layer}.self_attn.value_proj", DIM, DIM) | linear(f"{layer}.self_attn.output_proj", DIM, DIM)
        shapes |= norm(f"{layer}.norm1") | norm(f"{layer}.norm2")
        shapes |= linear(f"{layer}.linear1", feedforward[0], DIM) | linear(f"{layer}.linear2", DIM, feedforward[0])
    shapes |= {f"{pixel}.mask_features.weight": (DIM, DIM, 1, 1), f"{pixel}.mask_features.bias": (DIM,)}
    shapes |= {f"{pixel}.adapter_1.weight": (DIM, channels["res2"], 1, 1), **norm(f"{pixel}.adapter_1.norm")}
    shapes |= {f"{pixel}.layer_1.weight": (DIM, DIM, 3, 3), **norm(f"{pixel}.layer_1.norm")}
    for index in range(LAYERS):
        for kind, attention in (("self", "self_attn"), ("cross", "multihead_attn")):
            layer = f"{head}.transformer_{kind}_attention_layers.{index}"
            shapes |= {f"{layer}.{attention}.in_proj_weight": (3 * DIM, DIM), **norm(f"{layer}.norm")}
            shapes |= {f"{layer}.{attention}.in_proj_bias": (3 * DIM,)}
            shapes |= linear(f"{layer}.{attention}.out_proj", DIM, DIM)
        layer = f"{head}.transformer_ffn_layers.{index}"
        shapes |= linear(f"{layer}.linear1", feedforward[1], DIM) | linear(f"{layer}.linear2", DIM, feedforward[1])
        shapes |= norm(f"{layer}.norm")
    shapes |= norm(f"{head}.decoder_norm")
    shapes |= {f"{head}.query_feat.weight": (QUERIES, DIM), f"{head}.query_embed.weight": (QUERIES, DIM)}
    shapes[f"{head}.level_embed.weight"] = (3, DIM)
    for index in range(3):
        shapes |= linear(f"{head}.mask_embed.layers.{index}", DIM, DIM)
    return shapes


def random(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def feedforwards() -> tuple[int, int]:
    network = tiny_config(*TINY).model.network
    return network.pixel_decoder.feedforward, network.mask_decoder.feedforward


def fcclip_state() -> dict[str, torch.Tensor]:
    """FC-CLIP's: Mask2Former's decoders, its own head, the image half of CLIP, and no text half."""
    head = "sem_seg_head.predictor"
    shapes = mask2former(CLIP, feedforwards())
    shapes |= norm(f"{head}._mask_pooling_proj.0") | linear(f"{head}._mask_pooling_proj.1", DIM, DIM)
    shapes |= linear(f"{head}.class_embed.layers.0", DIM, DIM) | linear(f"{head}.class_embed.layers.1", DIM, DIM)
    shapes |= linear(f"{head}.class_embed.layers.2", EMBED, DIM)
    shapes |= {f"{head}.logit_scale": (), "void_embedding.weight": (1, EMBED), "criterion.empty_weight": (134,)}
    shapes |= {"backbone.clip_model.visual.trunk.stem.0.weight": (16, 3, 4, 4), "backbone.clip_model.logit_scale": ()}
    return random(shapes)


def fcclip_file(state: dict[str, torch.Tensor] | None = None) -> bytes:
    """As detectron2's checkpointer writes it at the end of training."""
    file = io.BytesIO()
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]}
    trainer = {"iteration": 368749, "_trainer": {"iteration": 368749, "optimizer": optimizer}}
    torch.save({"model": state or fcclip_state(), "trainer": trainer, "iteration": 368749}, file)
    return file.getvalue()


def mask2former_file() -> bytes:
    """As the model zoo has it: a pickle of arrays."""
    shapes = mask2former(RESNET, feedforwards()) | {"backbone.stem.conv1.weight": (8, 3, 7, 7)}
    shapes |= linear("sem_seg_head.predictor.class_embed", 81, DIM) | {"criterion.empty_weight": (81,)}
    arrays = {name: value.numpy() for name, value in random(shapes).items()}
    return pickle.dumps({"model": arrays, "__author__": "third_party", "matching_heuristics": True})


@pytest.fixture
def models(
    hub: Hub,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, registry.Published]:
    """The known models at small sizes, as the server here has them under the addresses that their files name."""
    monkeypatch.setenv("SCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SCORE_WEIGHTS", raising=False)
    found = registry.read(shipped("configs") / "released")
    files = {"fcclip_coco": fcclip_file(), "mask2former_coco": mask2former_file()}
    channels = ",".join(f"{level}:{width}" for level, width in RESNET.items())
    for name, own in {"fcclip_coco": [], "mask2former_coco": [f"backbone.channels={{{channels}}}"]}.items():
        hub.files[f"/{found[name].file}"] = files[name]
        fixed = [item for item in found[name].settings["overrides"] if item.partition("=")[0] not in "".join(TINY)]
        fixed = [item for item in fixed if not item.startswith(("backbone", "input.test"))]
        settings = {**found[name].settings, "overrides": [*fixed, *TINY, *own], "tower": None}
        settings["overrides"] += ["input.test.shortest=64", "input.test.longest=64"]
        found[name] = replace(
            found[name],
            settings=settings,
            url=f"{hub.address}/{found[name].file}",
            sha256=hashlib.sha256(files[name]).hexdigest() if found[name].sha256 else None,
            md5=hashlib.md5(files[name]).hexdigest()[:6] if found[name].md5 else None,
        )
    monkeypatch.setattr(registry, "read", lambda folder: found if folder == known.RELEASED else {})
    return found


def test_one_command_fetches_fc_clip_and_the_next_one_asks_it_any_words(
    models: dict[str, registry.Published],
    score_command: Call,  # noqa: F811
    tmp_path: Path,
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    asked = ("predict", "model=fcclip_coco", "images=photo.png", "output=out", "score=0", "runtime.device=cpu")
    asked = (*asked, "vocabulary=['zeppelin','parking lot,car park']")
    refused = score_command(*asked)
    assert (refused.code, refused.err) == (
        2,
        "error: fcclip_coco has not been fetched; score weights fetch fcclip_coco gets it\n",
    )
    outcome = score_command("weights", "fetch", "fcclip_coco")
    assert outcome.code == 0, outcome.err
    assert f"SHA-256 {models['fcclip_coco'].sha256}, as known" in outcome.out
    place = tmp_path / "cache" / "models" / "fcclip_coco"
    assert files(place) == ["README.md", "config.yaml", "model.safetensors", "vocabulary.yaml"]
    assert files(tmp_path / "cache" / "weights") == ["fcclip_cocopan.pth"]
    assert [path.name for path in place.parent.iterdir()] == ["fcclip_coco"]
    assert models["fcclip_coco"].sha256 in (place / "README.md").read_text()
    outcome = score_command(*asked)
    assert outcome.code == 0, outcome.err
    assert "zeppelin" in (tmp_path / "out" / "predictions.json").read_text()

    model = score.load_model("fcclip_coco", "cpu")
    assert model.rai is None and model.gca is None and model.scene is None
    assert (model.ensemble.alpha, model.ensemble.beta, model.selection.top_k) == (0.4, 0.8, 100)
    assert len(model.train_names) == 133 and len(model.text.prompts) == 14
    assert model.vocabulary(["palm tree", "zeppelin"]).seen.tolist() == [True, False]
    published = fcclip_state()
    torch.testing.assert_close(model.classifier.void, published["void_embedding.weight"], rtol=0, atol=0)
    pooled = published["sem_seg_head.predictor._mask_pooling_proj.1.weight"]
    assert torch.equal(model.state_dict()["class_embedding.pooled_proj.1.weight"], pooled)

    again = score_command("weights", "fetch", "fcclip_coco")
    assert again.code == 0 and "fcclip_coco is there" in again.out
    assert f"fcclip_coco        {len(load_file(place / 'model.safetensors'))} tensors" in (
        score_command("weights", "check", "fcclip_coco").out
    )


def test_mask2former_is_a_start_for_training(
    models: dict[str, registry.Published],
    score_command: Call,  # noqa: F811
    tmp_path: Path,
) -> None:
    outcome = score_command("weights", "fetch", "mask2former_coco")
    assert outcome.code == 0, outcome.err
    assert "none is known, its MD5 begins as published" in outcome.out
    place = known.find("mask2former_coco")
    assert files(place) == ["README.md", "model.safetensors"]
    own = [item for item in TINY if not item.startswith("backbone")]
    model, _ = tiny_model(["ship"], *own, "rai=off", "gca=off", "scene=off")
    report = initialise(model, place)
    decoder = pickle.loads(mask2former_file())["model"]
    assert torch.equal(
        model.mask_decoder.query_feat.weight, torch.from_numpy(decoder["sem_seg_head.predictor.query_feat.weight"])
    )
    assert "pixel_decoder.input_proj: another shape" in report and "mask_decoder: another" not in report


def test_the_published_settings_are_those_of_the_published_sizes() -> None:
    found = registry.read(known.RELEASED)
    config = tiny_config("backbone=convnext_large", *found["fcclip_coco"].settings["overrides"])
    assert (config.model.queries, config.backbone.embed_dim, dict(config.input.test)) == (
        *(250, 768),
        {"shortest": 800, "longest": 1333},
    )
    names = found["fcclip_coco"].settings["names"]
    assert (
        len(names) == 133
        and names[0].startswith("person,child")
        and names[79:81]
        == [
            "toothbrush,toothbrushes",
            "banner,banners",
        ]
    )
    assert found["mask2former_coco"].file == f"model_final_{found['mask2former_coco'].md5}.pkl"


def test_a_connection_that_breaks_is_taken_up_where_it_broke(
    hub: Hub,  # noqa: F811
    models: dict[str, registry.Published],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)  # what is written at a time, 10 MB
    hub.cut = 10_000
    fetch_model(models["fcclip_coco"], {}, None, None)
    assert hub.ranges == ["", "bytes=10000-"]
    assert score.load_model("fcclip_coco", "cpu").train_names[2] == "car,cars"


def test_a_command_that_was_cut_off_goes_on(hub: Hub, models: dict[str, registry.Published], tmp_path: Path) -> None:  # noqa: F811
    staging = tmp_path / "cache" / "weights" / registry.STAGING
    staging.mkdir(parents=True)
    (staging / "fcclip_cocopan.partial").write_bytes(hub.files["/fcclip_cocopan.pth"][:5000])
    fetch_model(models["fcclip_coco"], {}, None, None)
    assert hub.ranges == ["bytes=5000-"]
    assert files(tmp_path / "cache" / "weights") == ["fcclip_cocopan.pth"]


def spoil(kind: str, hub: Hub, model: registry.Published) -> registry.Published:  # noqa: F811
    """What can be wrong with what a server gives."""
    path, whole = f"/{model.file}", hub.files[f"/{model.file}"]
    if kind == "digest":
        return replace(model, sha256="0" * 64)
    if kind == "page":
        hub.files[path] = b"<!DOCTYPE html><html>Too many users have viewed or downloaded this file recently.</html>"
    elif kind == "gone":
        del hub.files[path]
    elif kind == "network":
        return replace(model, url="http://127.0.0.1:9/fcclip_cocopan.pth")
    elif kind == "truncated":  # and its digest not known
        hub.files[path] = whole[:-1000]
    elif kind == "shape":
        wide = torch.zeros(1, 2 * EMBED)
        hub.files[path] = fcclip_file({**fcclip_state(), "void_embedding.weight": wide})
    elif kind == "missing":
        state = fcclip_state()
        hub.files[path] = fcclip_file({k: v for k, v in state.items() if "query_feat" not in k})
    elif kind == "other":
        hub.files[path] = fcclip_file({"head.weight": torch.zeros(2)})
    return replace(model, sha256=None)


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("digest", "has the SHA-256 .* instead of 0000000000000000"),
        ("page", "gave a web page instead of fcclip_cocopan.pth; open it in a browser"),
        ("gone", r"cannot fetch fcclip_coco \(.*404"),
        ("network", r"cannot fetch fcclip_coco .* bring http://127.0.0.1:9/fcclip_cocopan.pth and put it into"),
        ("truncated", "fcclip_cocopan.pth .*; is it cut short"),
        ("shape", r"shape of void_embedding.weight: \(1, 64\), the model's classifier.void is \(1, 32\)"),
        ("missing", "missing in the checkpoint: mask_decoder.query_feat.weight"),
        ("other", "unknown name in the checkpoint: head.weight"),
    ],
)
def test_what_is_no_model_leaves_nothing(
    hub: Hub,  # noqa: F811
    models: dict[str, registry.Published],
    score_command: Call,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    kind: str,
    line: str,
) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)  # between its attempts
    models["fcclip_coco"] = spoil(kind, hub, models["fcclip_coco"])
    outcome = score_command("weights", "fetch", "fcclip_coco")
    assert outcome.code == 2 and outcome.err.startswith("error: ") and outcome.err.count("\n") == 1
    with pytest.raises(WeightsError, match=line):
        raise WeightsError(outcome.err)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_mirror_has_files_under_their_names(
    hub: Hub,  # noqa: F811
    models: dict[str, registry.Published],
    score_command: Call,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    unreachable = replace(models["fcclip_coco"], url="http://127.0.0.1:9/fcclip_cocopan.pth")
    unreachable.settings["tower"] = "convnext"
    facts = {"file": "ckpt/tower.bin", "repository": "https://huggingface.co/nobody/tower", "archive": None}
    tower = registry.Published("convnext", licence="MIT", megabytes=1, sha256=None, settings={}, **facts)
    known_ones = {known.RELEASED: {"fcclip_coco": unreachable}}
    monkeypatch.setattr(registry, "read", lambda folder: known_ones.get(folder, {"convnext": tower}))
    hub.files["/files/fcclip_cocopan.pth"] = hub.files.pop("/fcclip_cocopan.pth")
    hub.files["/files/tower.bin"] = b"a tower"
    monkeypatch.setenv("SCORE_MIRROR", f"{hub.address}/files/")
    outcome = score_command("weights", "fetch", "fcclip_coco")
    assert outcome.code == 0, outcome.err
    assert find_weights(facts, None) == tmp_path / "cache" / "weights" / "tower.bin"  # where a model will look for it
    assert known.find("fcclip_coco") == tmp_path / "cache" / "models" / "fcclip_coco"


def test_a_folder_of_one_s_own_goes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match="fcclip_coco has not been fetched"):
        known.find("fcclip_coco")
    tiny_folder(tmp_path / "fcclip_coco", ["ship"])
    assert known.find("fcclip_coco") == Path("fcclip_coco")
    assert known.find("runs/mine") == Path("runs/mine")  # whoever reads it says what is wrong with it
    monkeypatch.setitem(known.SHIPPED, "packaged", tmp_path / "fcclip_coco")
    assert known.find("packaged") == tmp_path / "fcclip_coco"
    assert score.load_model("packaged", "cpu").train_names == ["ship"]
