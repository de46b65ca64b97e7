"""Mask2Former's decoders in the transformers library, of a model's own sizes: what ours are timed beside."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from score.model.mask_decoder import MaskDecoder
from score.model.score import SCORE

LEVELS = ("res2", "res3", "res4", "res5")
GROUPS = 32  # of the library's group norms, which have to divide the width


class LibraryDecoders(nn.Module):
    """The library's pixel decoder and mask decoder, with random weights.

    Args:
        model: of the published mask decoder; the sizes of its decoders are taken over.
        channels: of each level of its pyramid, ``res2 .. res5``.
    """

    def __init__(self, model: SCORE, channels: list[int]) -> None:
        from transformers import Mask2FormerConfig  # seconds to import
        from transformers.models.mask2former import modeling_mask2former as library

        super().__init__()
        ours, pixel = model.mask_decoder, model.pixel_decoder
        width = pixel.mask_features.out_channels
        config = Mask2FormerConfig(
            feature_size=width,
            mask_feature_size=width,
            hidden_dim=width,
            encoder_layers=len(pixel.layers),
            encoder_feedforward_dim=pixel.layers[0].linear1.out_features,
            decoder_layers=len(ours.layers) + 1,  # it counts the head before the first layer, too
            dim_feedforward=ours.layers[0].linear1.out_features,
            num_attention_heads=pixel.layers[0].self_attn.heads,
            num_queries=ours.query_feat.num_embeddings,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of widths that its authors' CUDA kernel is slow with
            self.pixel_decoder = library.Mask2FormerPixelDecoder(config, channels)
        torch.nn.init.normal_(self.pixel_decoder.level_embed)  # left as it was in memory; the library's models set it
        self.mask_decoder = library.Mask2FormerTransformerModule(width, config)

    def forward(self, pyramid: Mapping[str, Tensor]) -> object:
        """Decode ``res2 .. res5`` of `Tower.pyramid` into the library's output, masks of every head."""
        maps = [pyramid[name].float() for name in LEVELS]
        pixels = self.pixel_decoder(maps, output_hidden_states=False, return_dict=True)
        return self.mask_decoder(multi_scale_features=pixels.multi_scale_features, mask_features=pixels.mask_features)


def decoders(model: SCORE, pyramid: Mapping[str, Tensor]) -> LibraryDecoders | None:
    """The library's decoders for a model's pyramid, where its own have an equal there: the published ones do."""
    if not isinstance(model.mask_decoder, MaskDecoder) or model.pixel_decoder.mask_features.out_channels % GROUPS:
        return None
    return LibraryDecoders(model, [pyramid[name].shape[1] for name in LEVELS]).to(model.device).eval()
