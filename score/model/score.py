"""SCORE: open-vocabulary instance segmentation of aerial images (ICCV 2025), as a detectron2 meta-architecture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from torch import Tensor, nn

from score.errors import ConfigError, WeightsError
from score.model.classifier import Ensemble, InVocabulary, similarity
from score.model.context.gca import GlobalContextAdaptation
from score.model.context.rai import RegionAwareIntegration
from score.model.criterion import SetCriterion, Target
from score.model.mask_decoder import ClassEmbedding, Head, MaskDecoder
from score.model.pixel_decoder import PixelDecoder, Pixels
from score.model.postprocess import InstanceSelection, semantic_map
from score.model.towers.base import Scene, Tower, resize
from score.model.vocabulary import TextBank, TextEncoder, check
from score.names import is_seen

STRIDE = 32  # the coarsest level: padded sizes are multiples of it


class Prediction(NamedTuple):
    """What the network says of a batch, before classes are combined and instances chosen.

    Attributes:
        in_logits: ``[B, Q, C + 1]`` of the trained classifier, void last.
        out_logits: ``[B, Q, C]`` of the frozen tower.
        mask_logits: ``[B, Q, H/4, W/4]``.
        padded: ``(H, W)`` of the padded input.
        sizes: ``(height, width)`` of each image within it.
        class_embed: ``[B, Q, E]``, what ``in_logits`` compares with words.
        region_embed: ``[B, Q, E]``, what ``out_logits`` compares with words.
        scene_embed: ``[B, E]`` of the whole image, None without a scene tower.
    """

    in_logits: Tensor
    out_logits: Tensor
    mask_logits: Tensor
    padded: tuple[int, int]
    sizes: list[tuple[int, int]]
    class_embed: Tensor
    region_embed: Tensor
    scene_embed: Tensor | None


@META_ARCH_REGISTRY.register()
class SCORE(nn.Module):
    """A Mask2Former over frozen image-text towers, whose classes are words.

    Args:
        backbone: frozen tower: features, text, and out-of-vocabulary logits.
        scene: frozen tower that sees the whole image; needed by ``rai`` and ``gca``, let go without them.
        pixel_decoder, mask_decoder, class_embedding, classifier: the trainable path, in the order of data.
        rai: region-aware integration, or None.
        gca: global context adaptation, or None.
        criterion: training losses.
        ensemble: combines the two classifiers.
        selection: instances from predictions.
        train_names: the training vocabulary.
        prompts: templates that class names are put into.
        cache: folder for text banks, or None.
        semantic: also return ``sem_seg``.
    """

    def __init__(
        self,
        *,
        backbone: Tower,
        scene: Tower | None,
        pixel_decoder: PixelDecoder,
        mask_decoder: MaskDecoder,
        class_embedding: ClassEmbedding,
        classifier: InVocabulary,
        rai: RegionAwareIntegration | None,
        gca: GlobalContextAdaptation | None,
        criterion: SetCriterion,
        ensemble: Ensemble,
        selection: InstanceSelection,
        train_names: Sequence[str],
        prompts: Sequence[str],
        cache: str | None = None,
        semantic: bool = False,
    ) -> None:
        super().__init__()
        needs_scene = rai is not None or gca is not None
        if needs_scene and scene is None:
            raise ConfigError("rai and gca need a scene tower: choose one with scene=NAME, or set rai=off gca=off")
        if scene is not None and needs_scene and scene.embed_dim != backbone.embed_dim:
            raise ConfigError(
                f"towers of different widths: backbone {backbone.embed_dim}, "
                f"scene {scene.embed_dim}; choose a matching pair"
            )
        self.backbone = backbone
        self.scene = scene if needs_scene else None
        if self.scene is not None:
            self.scene.drop_text()
        self.pixel_decoder, self.mask_decoder = pixel_decoder, mask_decoder
        self.class_embedding, self.classifier = class_embedding, classifier
        self.rai, self.gca = rai, gca
        self.criterion, self.ensemble, self.selection = criterion, ensemble, selection
        self.semantic = semantic
        self.text = TextEncoder(backbone, prompts, cache)
        self.train_names = check(train_names)
        self.set_vocabulary(self.train_names)
        for name, tower in (("backbone", self.backbone), ("scene", self.scene)):
            if tower is not None:
                self.register_buffer(f"{name}_mean", torch.tensor(tower.pixel_mean).view(3, 1, 1), persistent=False)
                self.register_buffer(f"{name}_std", torch.tensor(tower.pixel_std).view(3, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.classifier.void.device

    def set_vocabulary(self, names: Sequence[str]) -> None:
        """Choose the words to look for in evaluation; training always uses ``train_names``.

        Raises:
            ConfigError: the vocabulary is empty or says a name twice.
        """
        self.names = check(names)
        self.seen = torch.tensor([is_seen(name, self.train_names) for name in self.names])

    def forward(self, inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """Losses in training, instances in evaluation.

        Args:
            inputs: detectron2 dicts: ``image`` ``[3, h, w]`` RGB in 0..255; in training ``instances`` with
                ``gt_classes`` and ``gt_masks``; in evaluation optionally ``height`` and ``width`` of the result.

        Returns:
            Weighted losses by name, or a dict an image with ``instances`` (and ``sem_seg``).
        """
        images = self._images(inputs)
        if self.training:
            return self._losses(images, inputs)
        prediction = self._predict(images)
        return [self._result(prediction, index, item) for index, item in enumerate(inputs)]

    @torch.no_grad()
    def predict(self, inputs: list[dict]) -> Prediction:
        """The network's raw word on a batch, for the current vocabulary."""
        return self._predict(self._images(inputs))

    def _images(self, inputs: list[dict]) -> ImageList:
        """Normalise each image, then pad with zeros to a common multiple of 32."""
        images = [(item["image"].to(self.device) - self.backbone_mean) / self.backbone_std for item in inputs]
        return ImageList.from_tensors(images, STRIDE)

    def _encode(self, images: Tensor) -> tuple[dict[str, Tensor], Scene | None]:
        """Both frozen towers' view of the padded batch."""
        with torch.no_grad():
            pyramid = self.backbone.pyramid(images)
            if self.scene is None:
                return pyramid, None
            if not torch.equal(self.backbone_mean, self.scene_mean) or not torch.equal(
                self.backbone_std, self.scene_std
            ):
                images = (images * self.backbone_std + self.backbone_mean - self.scene_mean) / self.scene_std
            return pyramid, self.scene.encode_scene(images)

    def classify(self, class_embed: Tensor, region_embed: Tensor, scene_embed: Tensor | None) -> tuple[Tensor, Tensor]:
        """``in_logits`` and ``out_logits`` for the current vocabulary, of the embeddings of a :class:`Prediction`."""
        text = self._bank(self.names)
        bank = self._adapted(text.embeds, scene_embed, len(class_embed))
        in_logits = self.classifier(class_embed, bank, text.counts)
        return in_logits, similarity(region_embed, text.embeds, text.counts, self.backbone.logit_scale)

    def _adapted(self, bank: Tensor, scene_embed: Tensor | None, batch: int) -> Tensor:
        """The text bank as each image's scene changes it, ``[B, S, E]``."""
        if self.gca is None or scene_embed is None:
            return bank.expand(batch, -1, -1)
        return self.gca(bank, scene_embed)

    def _class_embed(self, head: Head, pixels: Pixels, scene: Scene | None) -> Tensor:
        """What one head's queries are compared with words by, ``[B, Q, E]``."""
        embed = self.class_embedding(head, pixels.mask_features)
        if self.rai is not None and scene is not None:
            embed = self.rai(embed, head.mask_logits, scene.patches)
        return embed

    def _losses(self, images: ImageList, inputs: list[dict]) -> dict[str, Tensor]:
        pyramid, scene = self._encode(images.tensor)
        text = self._bank(self.train_names)
        bank = self._adapted(text.embeds, scene.embed if scene else None, len(inputs))
        pixels = self.pixel_decoder(pyramid)
        heads = self.mask_decoder(pixels.multiscale, pixels.mask_features, every_head=True)
        logits = [self.classifier(self._class_embed(head, pixels, scene), bank, text.counts) for head in heads]
        targets = [self._target(item, images.tensor.shape[-2:]) for item in inputs]
        return self.criterion([(c, head.mask_logits) for c, head in zip(logits, heads, strict=True)], targets)

    def _predict(self, images: ImageList) -> Prediction:
        pyramid, scene = self._encode(images.tensor)
        pixels = self.pixel_decoder(pyramid)
        (head,) = self.mask_decoder(pixels.multiscale, pixels.mask_features, every_head=False)
        dense = pyramid["dense"]
        embeds = (
            self._class_embed(head, pixels, scene),
            self.backbone.embed_regions(dense, resize(head.mask_logits, dense.shape[-2:])),
            scene.embed if scene else None,
        )
        padded = (images.tensor.shape[-2], images.tensor.shape[-1])
        sizes = [tuple(size) for size in images.image_sizes]
        return Prediction(*self.classify(*embeds), head.mask_logits, padded, sizes, *embeds)

    def _bank(self, names: Sequence[str]) -> TextBank:
        bank = self.text(names)
        return bank._replace(embeds=bank.embeds.to(self.device))

    def _target(self, item: dict, padded: torch.Size) -> Target:
        """Ground truth of one image, masks zero-padded as the image is."""
        instances = item["instances"]
        masks = instances.gt_masks.tensor.to(self.device)
        canvas = torch.zeros(len(masks), *padded, device=self.device)
        canvas[:, : masks.shape[-2], : masks.shape[-1]] = masks
        return Target(instances.gt_classes.to(self.device), canvas)

    def _result(self, prediction: Prediction, index: int, item: dict) -> dict:
        size = prediction.sizes[index]
        output = (int(item.get("height", size[0])), int(item.get("width", size[1])))
        seen = self.seen.to(self.device)
        chances = self.ensemble(prediction.in_logits[index], prediction.out_logits[index], seen)
        masks = prediction.mask_logits[index]
        result = {"instances": self.selection(chances, masks, prediction.padded, size, output)}
        if self.semantic:
            result["sem_seg"] = semantic_map(chances, masks, prediction.padded, size, output, self.selection.chunk)
        return result

    def trainable_state(self) -> dict[str, Tensor]:
        """Everything that training changes; the frozen towers are left out."""
        return {name: x for name, x in self.state_dict().items() if not name.startswith(("backbone.", "scene."))}

    def load_trainable(self, state: Mapping[str, Tensor]) -> None:
        """Load what :meth:`trainable_state` gave.

        Raises:
            WeightsError: a name is missing, unexpected, or of another shape; the first of them is named.
        """
        own = self.trainable_state()
        for name, value in own.items():
            if name not in state:
                raise WeightsError(
                    f"weights of another architecture: {name} is missing; use the config they were trained with"
                )
            if value.shape != state[name].shape:
                raise WeightsError(
                    f"weights of another architecture: {name} has shape {tuple(state[name].shape)}, "
                    f"the model needs {tuple(value.shape)}; use the config they were trained with"
                )
        for name in state:
            if name not in own:
                raise WeightsError(
                    f"weights of another architecture: unexpected {name}; use the config they were trained with"
                )
        self.load_state_dict(dict(state), strict=False)
