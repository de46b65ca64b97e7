"""Every recorded array of an inference of the released code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from score.model.classifier import Ensemble, similarity
from score.model.context.rai import dilate
from score.model.postprocess import semantic_map, upsample
from score.model.score import SCORE
from score.model.towers.base import pool_regions, resize
from score.model.towers.vit import ViTTower
from score.model.vocabulary import Vocabulary
from score.names import synonyms
from tests.parity.conftest import ROWS, Case, compare, unpack


@pytest.fixture(scope="module")
def arrays(case: Case) -> dict[str, np.ndarray]:
    return case.arrays("inference")


@pytest.fixture
def words(model: SCORE, case: Case) -> Vocabulary:
    return model.vocabulary(case.config["test_vocabulary"])


@pytest.fixture
def encoded(model: SCORE, words: Vocabulary, case: Case, arrays: dict[str, np.ndarray]) -> dict:
    """The stages of one forward pass, in order."""
    with torch.no_grad():
        images = model._images(case.inputs(arrays))
        pyramid, scene = model._towers(images.tensor)
        bank = model._adapted(words.embeds, scene, len(images))
        pixels = model.pixel_decoder(pyramid)
        heads = model.mask_decoder(pixels, targets=[]).heads
    return {"images": images, "pyramid": pyramid, "scene": scene, "bank": bank, "pixels": pixels, "heads": heads}


@pytest.mark.parametrize("which", ["train", "test"])
def test_text(model: SCORE, case: Case, arrays: dict[str, np.ndarray], which: str) -> None:
    names = case.config[f"{which}_vocabulary"]
    texts = [prompt.format(word) for name in names for word in synonyms(name) for prompt in model.text.prompts]
    compare(f"text_{which}_token_ids", model.backbone.tokenizer(texts).numpy(), arrays[f"text_{which}_token_ids"])
    compare(f"text_{which}_prompt_embed", model.backbone.encode_text(texts), arrays[f"text_{which}_prompt_embed"])
    bank = model.text(names)
    compare(f"text_{which}_bank", bank.embeds, arrays[f"text_{which}_bank"])
    compare(f"text_{which}_num_templates", np.array(bank.counts), arrays[f"text_{which}_num_templates"])


def test_towers(model: SCORE, encoded: dict, arrays: dict[str, np.ndarray]) -> None:
    images = encoded["images"].tensor
    compare("input_padded", images, arrays["input_padded"])
    for name in ("res2", "res3", "res4", "res5"):
        compare(name, encoded["pyramid"][name], arrays[name])
    compare("clip_vis_dense", encoded["pyramid"]["dense"], arrays["clip_vis_dense"])
    compare("scene_input", model.scene._scene_input(images), arrays["scene_input"])
    recorded = torch.from_numpy(arrays["scene_clip_global"])
    compare("scene_clip_global (normalised)", encoded["scene"].embed, F.normalize(recorded, dim=-1).numpy())
    compare("scene_dense", encoded["scene"].patches, arrays["scene_dense"])


def test_scene_in_half_precision(half_scene: ViTTower, encoded: dict, arrays: dict[str, np.ndarray]) -> None:
    """What half precision moves (2e-3 to 3e-3) is recorded to a few of its own steps: kernels sum in other orders."""
    scene = half_scene.encode_scene(encoded["images"].tensor)
    exact = encoded["scene"]
    for name, got, full in (("clip_global", scene.embed, exact.embed), ("dense", scene.patches, exact.patches)):
        recorded = torch.from_numpy(arrays[f"scene_half_{name}"]).float()
        recorded = F.normalize(recorded, dim=-1) if name == "clip_global" else recorded
        gap = (got - recorded).norm() / recorded.norm()
        moved = (full - recorded).norm() / recorded.norm()
        ROWS.append(
            (
                f"scene_half_{name}",
                "x".join(map(str, got.shape)),
                float((got - recorded).abs().max()),
                float(gap),
                "2e-3",
            )
        )
        assert gap < 2e-3 and moved > 1e-4


def test_scene_tokens(model: SCORE, encoded: dict, arrays: dict[str, np.ndarray]) -> None:
    tokens: list[torch.Tensor] = []
    blocks = model.scene.visual.transformer.resblocks
    handles = [block.register_forward_hook(lambda _m, _i, out: tokens.append(out)) for block in blocks[:-1]]
    last: list[torch.Tensor] = []
    handles.append(model.scene.visual.ln_post.register_forward_pre_hook(lambda _m, args: last.append(args[0])))
    model.scene.encode_scene(encoded["images"].tensor)
    for handle in handles:
        handle.remove()
    for index, found in enumerate([*tokens, *last]):
        compare(f"scene_tokens_layer{index}", found.transpose(0, 1), arrays[f"scene_tokens_layer{index}"])


def test_context(model: SCORE, encoded: dict, arrays: dict[str, np.ndarray]) -> None:
    compare("gca_output", encoded["bank"].flatten(0, 1).unsqueeze(1), arrays["gca_output"])
    compare("text_bank_adapted", model.classifier.with_void(encoded["bank"]), arrays["text_bank_adapted"])


def test_pixel_decoder(model: SCORE, encoded: dict, arrays: dict[str, np.ndarray]) -> None:
    first: list[torch.Tensor] = []
    handle = model.pixel_decoder.layers[0].register_forward_hook(lambda _m, _i, out: first.append(out))
    with torch.no_grad():
        model.pixel_decoder(encoded["pyramid"])
    handle.remove()
    compare("pixel_encoder_layer0", first[0], arrays["pixel_encoder_layer0"])
    compare("mask_features", encoded["pixels"].mask_features, arrays["mask_features"])
    for level, maps in enumerate(encoded["pixels"].multiscale):
        compare(f"multiscale_{level}", maps, arrays[f"multiscale_{level}"])


def test_queries(model: SCORE, encoded: dict, arrays: dict[str, np.ndarray]) -> None:
    states: list[torch.Tensor] = []
    handles = [
        layer.register_forward_hook(lambda _m, _i, out: states.append(out)) for layer in model.mask_decoder.layers
    ]
    with torch.no_grad():
        model.mask_decoder(encoded["pixels"])
    for handle in handles:
        handle.remove()
    states.insert(0, model.mask_decoder.query_feat.weight.expand(len(encoded["images"]), -1, -1))
    for index, state in enumerate(states):
        compare(f"head{index}_query", state.transpose(0, 1), arrays[f"head{index}_query"])


def test_attention_masks(model: SCORE, encoded: dict, arrays: dict[str, np.ndarray]) -> None:
    pixels, decoder = encoded["pixels"], model.mask_decoder
    for index, head in enumerate(encoded["heads"]):
        size = pixels.multiscale[index % 3].shape[-2:]
        with torch.no_grad():
            embed = decoder.mask_embed(head.queries)
            outside = decoder._outside(embed, resize(pixels.mask_features, size))
        compare(f"head{index}_mask_embed", embed, arrays[f"head{index}_mask_embed"])
        all_heads = outside.unsqueeze(1).expand(-1, decoder.layers[0].cross_attn.num_heads, -1, -1).flatten(0, 1)
        compare(f"head{index}_attn_mask", all_heads.numpy(), unpack(arrays, f"head{index}_attn_mask"))


def test_heads(model: SCORE, words: Vocabulary, encoded: dict, arrays: dict[str, np.ndarray], case: Case) -> None:
    features, patches = encoded["pixels"].mask_features, encoded["scene"].patches
    assert model.rai.kernel == case.config["inference"]["fixed_kernel_size"]
    for index, head in enumerate(encoded["heads"]):
        key = f"head{index}"
        compare(f"{key}_mask_logits", head.mask_logits, arrays[f"{key}_mask_logits"])
        with torch.no_grad():
            pooled = pool_regions(features, head.mask_logits > 0)
            compare(f"{key}_pooled_mask_feature", pooled, arrays[f"{key}_pooled_mask_feature"])
            projected = model.class_embedding.pooled_proj(pooled)
            compare(f"{key}_pooled_mask_proj", projected, arrays[f"{key}_pooled_mask_proj"])
            [embed] = model.class_embedding(head.queries[None], [head.mask_logits > 0], features)
            compare(f"{key}_class_embed", embed, arrays[f"{key}_class_embed"])
            wide = dilate(head.mask_logits, model.rai.kernel)
            compare(f"{key}_mask_dilated", wide, arrays[f"{key}_mask_dilated"])
            on_grid = resize(wide, patches.shape[-2:])
            compare(f"{key}_scene_pool_mask", on_grid, arrays[f"{key}_scene_pool_mask"])
            compare(f"{key}_scene_pooled", pool_regions(patches, on_grid > 0), arrays[f"{key}_scene_pooled"])
            seen: list[torch.Tensor] = []
            handle = model.rai.transformer.register_forward_pre_hook(lambda _m, args, seen=seen: seen.append(args[0]))
            [refined] = model.rai(embed[None], [model.rai.view(head, encoded["scene"])])
            handle.remove()
            compare(f"{key}_rai_input", seen[0], arrays[f"{key}_rai_input"])
            compare(f"{key}_rai_output", refined.flatten(0, 1).unsqueeze(1), arrays[f"{key}_rai_output"])
            logits = model.classifier(refined, encoded["bank"], words.counts)
            compare(f"{key}_class_logits", logits, arrays[f"{key}_class_logits"])


def test_prediction(model: SCORE, words: Vocabulary, case: Case, arrays: dict[str, np.ndarray]) -> None:
    inputs = case.inputs(arrays)
    prediction = model.predict(inputs, words)
    compare(
        "class_logits (model.predict)",
        prediction.in_logits,
        arrays[f"head{len(model.mask_decoder.layers)}_class_logits"],
    )
    compare("text_bank_plain", model.classifier.with_void(words.embeds[None])[0], arrays["text_bank_plain"])
    compare("out_vocab_logits", prediction.out_logits, arrays["out_vocab_logits"][..., :-1])
    compare("overlap_mask", words.seen.long().numpy(), arrays["overlap_mask"])
    for index, (alpha, beta) in enumerate(case.config["ensemble_alpha_beta_pairs"]):
        combined = Ensemble(alpha=alpha, beta=beta)(prediction.in_logits, prediction.out_logits, words.seen)
        compare(f"ensemble_logprob_pair{index}", combined, arrays[f"ensemble_logprob_pair{index}"])
    padded = prediction.regions.padded
    full = upsample(prediction.regions.mask_logits.flatten(0, 1), padded, padded, padded)
    compare(
        "mask_logits_upsampled",
        full.view_as(torch.from_numpy(arrays["mask_logits_upsampled"])),
        arrays["mask_logits_upsampled"],
    )


def test_out_of_vocabulary(model: SCORE, words: Vocabulary, encoded: dict, arrays: dict[str, np.ndarray]) -> None:
    dense = encoded["pyramid"]["dense"]
    on_grid = resize(encoded["heads"][-1].mask_logits, dense.shape[-2:])
    compare("mask_for_pooling", on_grid, arrays["mask_for_pooling"])
    compare("pooled_clip_dense", pool_regions(dense, on_grid > 0), arrays["pooled_clip_dense"])
    regions = model.backbone.embed_regions(dense, on_grid)
    compare("pooled_clip_feature", regions, arrays["pooled_clip_feature"])
    plain = torch.from_numpy(arrays["text_bank_plain"])
    logits = similarity(regions, plain, [*words.counts, 1], model.backbone.logit_scale)
    compare("out_vocab_logits (with void)", logits, arrays["out_vocab_logits"])


def test_instances(model: SCORE, words: Vocabulary, case: Case, arrays: dict[str, np.ndarray]) -> None:
    alpha, beta = case.config["ensemble_alpha_beta_pairs"][0]
    with torch.no_grad():
        results = model(case.inputs(arrays), words, ensemble=Ensemble(alpha=alpha, beta=beta))
    for index, result in enumerate(results):
        found, key = result["instances"], f"img{index}"
        recorded = np.lexsort((arrays[f"{key}_classes"], arrays[f"{key}_query"]))
        ours = np.lexsort((found.pred_classes.numpy(), found.query.numpy()))
        for name, values in (
            ("query", found.query),
            ("classes", found.pred_classes),
            ("scores", found.scores),
            ("boxes", found.pred_boxes.tensor),
        ):
            compare(f"{key}_{name}", values.numpy()[ours], arrays[f"{key}_{name}"][recorded])
        compare(f"{key}_masks", found.pred_masks.numpy()[ours], unpack(arrays, f"{key}_masks")[recorded])


def test_semantic(model: SCORE, words: Vocabulary, case: Case, arrays: dict[str, np.ndarray]) -> None:
    regions, *logits = model.predict(case.inputs(arrays), words)
    alpha, beta = case.config["ensemble_alpha_beta_pairs"][0]
    combined = Ensemble(alpha=alpha, beta=beta)(*logits, words.seen)
    recorded = [index for index in range(len(regions.sizes)) if f"img{index}_semantic" in arrays]
    assert recorded
    for index in recorded:
        place = regions.mask_logits[index], regions.padded, regions.sizes[index]
        got = semantic_map(combined[index], *place, tuple(case.config["output_sizes"][index]), chunk=7)
        compare(f"img{index}_semantic", got, arrays[f"img{index}_semantic"])
