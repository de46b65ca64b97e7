"""SCORE: open-vocabulary instance segmentation of aerial images (ICCV 2025), as a detectron2 meta-architecture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple

import torch
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from score.errors import ConfigError, WeightsError
from score.model import criterion as losses  # a module: it may be in the midst of importing what imports this one
from score.model.classifier import Ensemble, InVocabulary, similarity
from score.model.compiled import check_compiler, for_first_size
from score.model.context.base import RegionContext, TextContext
from score.model.mask_decoder import ClassEmbedding, DecoderLayer, Head, MaskDecoder
from score.model.pixel_decoder import DeformableEncoderLayer, PixelDecoder, Pixels
from score.model.places import PlacesDecoder
from score.model.postprocess import InstanceSelection, semantic_map
from score.model.stages import stage
from score.model.towers.base import Scene, Tower, resize
from score.model.vocabulary import TextEncoder, Vocabulary
from score.names import check, is_seen

STRIDE = 32  # the coarsest level: padded sizes are multiples of it


class Resize(NamedTuple):
    """The size that images are brought to in evaluation, in pixels.

    Attributes:
        shortest: wished length of the shorter side.
        longest: greatest length of the longer one.
    """

    shortest: int = 512
    longest: int = 800


class Calibration(NamedTuple):
    """The least scores that are worth showing, and what asked words are told from.

    Attributes:
        seen: of words of the training vocabulary.
        unseen: of all others.
        distractors: words that compete with those asked, as the training vocabulary does, and are never reported.
    """

    seen: float = 0.3
    unseen: float = 0.3
    distractors: tuple[str, ...] = ()


class Regions(NamedTuple):
    """What the network finds in a batch, before any word is compared with it.

    Attributes:
        mask_logits: ``[B, Q, H/4, W/4]``.
        class_embed: ``[B, Q, E]``, what the trained classifier compares with words.
        region_embed: ``[B, Q, E]``, what the frozen tower compares with words.
        scene: of the whole images, None without a scene tower.
        padded: ``(H, W)`` of the padded input.
        sizes: ``(height, width)`` of each image within it.
        quality: ``[B, Q]``, as :class:`Decoded` has it.
    """

    mask_logits: Tensor
    class_embed: Tensor
    region_embed: Tensor
    scene: Scene | None
    padded: tuple[int, int]
    sizes: list[tuple[int, int]]
    quality: Tensor | None = None

    def shown(self, index: int) -> Tensor:
        """Which regions of an image are none that another one shows better, as indices."""
        if self.quality is None:
            return torch.arange(self.class_embed.shape[1], device=self.class_embed.device)
        return self.quality[index].nonzero()[:, 0]

    def of(self, index: int) -> Regions:
        """Those of one image, as a batch of one."""
        one = slice(index, index + 1)
        scene = None if self.scene is None else Scene(*(part[one] for part in self.scene))
        parts = self.mask_logits[one], self.class_embed[one], self.region_embed[one], scene
        return Regions(*parts, self.padded, self.sizes[one], None if self.quality is None else self.quality[one])


class Prediction(NamedTuple):
    """Regions compared with a vocabulary, before classes are combined and instances chosen.

    Attributes:
        regions: of the batch.
        in_logits: ``[B, Q, C + 1]`` of the trained classifier, void last.
        out_logits: ``[B, Q, C]`` of the frozen tower.
    """

    regions: Regions
    in_logits: Tensor
    out_logits: Tensor


@META_ARCH_REGISTRY.register()
class SCORE(nn.Module):
    """A Mask2Former over frozen image-text towers, whose classes are words.

    Args:
        backbone: frozen tower: features, text, and out-of-vocabulary logits.
        scene: frozen tower that sees the whole image; needed by ``rai`` and ``gca``, let go without them. "backbone"
            reads the scene from the backbone's own pyramid, so that no image is encoded twice.
        pixel_decoder, mask_decoder, class_embedding, classifier: the trainable path, in the order of data.
        rai: region-aware integration, or None.
        gca: global context adaptation, or None.
        selection: instances from predictions.
        prompts: templates that class names are put into.
        cache: folder for text banks, or None.

    Attributes:
        resize: the size of images that it was made for; the published one until a folder or a run says another.
        calibration: what is worth showing; the folder's own where it has been calibrated.
        weights: the first 16 hexadecimal digits of the SHA-256 of the folder's weights, "" of a model without folder.
        towers_in: ``bfloat16`` or ``float16``, where frozen towers were lowered to it; None where they were not.
        compiled: the time of each part that was compiled, as a share of the time without; those below 1 are used.
    """

    def __init__(
        self,
        *,
        backbone: Tower,
        scene: Tower | Literal["backbone"] | None,
        pixel_decoder: PixelDecoder,
        mask_decoder: MaskDecoder | PlacesDecoder,
        class_embedding: ClassEmbedding,
        classifier: InVocabulary,
        rai: RegionContext | None,
        gca: TextContext | None,
        criterion: losses.SetCriterion,
        ensemble: Ensemble,
        selection: InstanceSelection,
        train_names: Sequence[str],
        prompts: Sequence[str],
        cache: str | None = None,
    ) -> None:
        super().__init__()
        needs_scene = rai is not None or gca is not None
        if needs_scene and scene is None:
            raise ConfigError("rai and gca need a scene tower: choose one with scene=NAME, or set rai=off gca=off")
        if scene == "backbone":
            scene = backbone
        if scene is not None and needs_scene and scene.embed_dim != backbone.embed_dim:
            raise ConfigError(
                f"towers of different widths: backbone {backbone.embed_dim}, "
                f"scene {scene.embed_dim}; choose a matching pair"
            )
        self.backbone = backbone
        self.scene = scene if needs_scene else None
        if self.scene is not None and self.scene is not self.backbone:
            self.scene.drop_text()
        self.pixel_decoder, self.mask_decoder = pixel_decoder, mask_decoder
        self.class_embedding, self.classifier = class_embedding, classifier
        self.rai, self.gca = rai, gca
        self.criterion, self.ensemble, self.selection = criterion, ensemble, selection
        self.text = TextEncoder(backbone, prompts, cache)
        self.train_names = check(train_names)
        self.resize, self.calibration, self.weights = Resize(), Calibration(), ""
        self.towers_in: str | None = None
        self.compiled: dict[str, float] = {}
        for name, tower in (("backbone", self.backbone), ("scene", self.scene)):
            if tower is not None:
                self.register_buffer(f"{name}_mean", torch.tensor(tower.pixel_mean).view(3, 1, 1), persistent=False)
                self.register_buffer(f"{name}_std", torch.tensor(tower.pixel_std).view(3, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.classifier.void.device

    def vocabulary(self, names: Sequence[str]) -> Vocabulary:
        """Encode words to look for.

        Raises:
            ConfigError: the vocabulary is empty or says a name twice.
        """
        bank = self.text(names)
        seen = torch.tensor([is_seen(name, self.train_names) for name in names], device=self.device)
        return Vocabulary(list(names), seen, bank.embeds.to(self.device), bank.counts)

    def forward(
        self,
        inputs: list[dict],
        vocabulary: Vocabulary | None = None,
        *,
        ensemble: Ensemble | None = None,
        masks: Literal["bits", "rle"] = "bits",
        semantic: bool = False,
    ) -> dict[str, Tensor] | list[dict]:
        """Losses in training, instances in evaluation.

        Args:
            inputs: detectron2 dicts: ``image`` ``[3, h, w]`` RGB in 0..255; in training ``instances`` with
                ``gt_classes`` and ``gt_masks``, and optionally ``ignore`` ``[h, w]`` bool, where nothing counts as
                background; in evaluation optionally ``height`` and ``width`` of the result.
            vocabulary: what to look for in evaluation, of :meth:`vocabulary`; None for the training vocabulary.
            ensemble: exponents; None for the model's own.
            masks: as :class:`InstanceSelection` returns them.
            semantic: also return ``sem_seg``.

        Returns:
            Weighted losses by name, or a dict an image with ``instances`` (and ``sem_seg``).
        """
        if self.training:
            return self._losses(self._images(inputs), inputs)
        vocabulary = vocabulary or self.vocabulary(self.train_names)
        prediction = self.predict(inputs, vocabulary)
        return self.results(prediction, inputs, vocabulary, ensemble=ensemble, masks=masks, semantic=semantic)

    @torch.no_grad()
    def look(self, inputs: list[dict]) -> Regions:
        """Find regions in a batch of detectron2 dicts: all of the network that does not depend on words."""
        images = self._images(inputs)
        pyramid, scene = self._towers(images.tensor)
        with stage("pixel decoder"):
            pixels = self.pixel_decoder(pyramid)
        with stage("mask decoder"):
            [head], quality, *_ = self.mask_decoder(pixels)
        with stage("regions"):
            [class_embed] = self._class_embed([head], pixels, scene)
            head = Head(head.queries, head.mask_logits.contiguous())  # mask by mask from here on
            dense = pyramid["dense"]
            region_embed = self.backbone.embed_regions(dense, resize(head.mask_logits, dense.shape[-2:]))
        padded = (images.tensor.shape[-2], images.tensor.shape[-1])
        sizes = [(int(height), int(width)) for height, width in images.image_sizes]
        return Regions(head.mask_logits, class_embed, region_embed, scene, padded, sizes, quality)

    @torch.no_grad()
    def ask(self, regions: Regions, vocabulary: Vocabulary) -> Prediction:
        """Compare regions with words; the network does not run again."""
        with stage("classes"):
            bank = self._adapted(vocabulary.embeds, regions.scene, len(regions.class_embed))
            in_logits = self.classifier(regions.class_embed, bank, vocabulary.counts)
            scale = self.backbone.logit_scale
            out_logits = similarity(regions.region_embed, vocabulary.embeds, vocabulary.counts, scale)
        return Prediction(regions, in_logits, out_logits)

    def predict(self, inputs: list[dict], vocabulary: Vocabulary) -> Prediction:
        """:meth:`look`, then :meth:`ask`."""
        return self.ask(self.look(inputs), vocabulary)

    @torch.no_grad()
    def results(
        self,
        prediction: Prediction,
        inputs: list[dict],
        vocabulary: Vocabulary,
        *,
        ensemble: Ensemble | None = None,
        masks: Literal["bits", "rle"] = "bits",
        semantic: bool = False,
    ) -> list[dict]:
        """What :meth:`forward` returns in evaluation, of what :meth:`predict` made of the same inputs and words."""
        chances = (ensemble or self.ensemble)(prediction.in_logits, prediction.out_logits, vocabulary.seen)
        return [
            self._result(prediction.regions, index, chances[index], item, masks, semantic)
            for index, item in enumerate(inputs)
        ]

    def _images(self, inputs: list[dict]) -> ImageList:
        """Normalise each image, then pad with zeros to a common multiple of 32."""
        images = [(item["image"].to(self.device) - self.backbone_mean) / self.backbone_std for item in inputs]
        return ImageList.from_tensors(images, STRIDE)

    def _towers(self, images: Tensor) -> tuple[dict[str, Tensor], Scene | None]:
        """Both frozen towers' view of the padded batch."""
        with torch.no_grad():
            with stage("backbone"):
                pyramid = self.backbone.pyramid(images)
            if self.scene is None:
                return pyramid, None
            if self.scene is self.backbone:
                return pyramid, self.backbone.scene_of(pyramid)
            statistics = ((*tower.pixel_mean, *tower.pixel_std) for tower in (self.backbone, self.scene))
            if len(set(statistics)) > 1:  # compared here, for a GPU would be waited for
                images = (images * self.backbone_std + self.backbone_mean - self.scene_mean) / self.scene_std
            with stage("scene tower"):
                return pyramid, self.scene.encode_scene(images)

    def lower_towers(self, dtype: torch.dtype | None) -> None:
        """Let the image halves of the frozen towers compute in 16 bits; None changes nothing."""
        self.towers_in = str(dtype).removeprefix("torch.") if dtype else None
        for tower in {self.backbone, self.scene} - {None} if dtype else ():
            tower.lower(dtype)  # type: ignore[union-attr, arg-type]

    def recompute(self) -> None:
        """Keep nothing from within a layer for the gradient, but compute it again: less memory, more time."""
        for module in self.modules():
            if isinstance(module, DeformableEncoderLayer | DecoderLayer | nn.TransformerEncoderLayer):
                module.forward = partial(checkpoint, module.forward, use_reentrant=False)  # type: ignore[method-assign]

    def compile_parts(self, *, decoders: bool) -> None:
        """Compile the frozen towers' image halves, for the size of the images that come first, where that is faster.

        Args:
            decoders: also compile both decoders; a training step is slower with them.

        Raises:
            ConfigError: nothing can be compiled here.
        """
        check_compiler(self.device)
        parts = [("backbone", self.backbone, "pyramid")]
        parts += [("scene tower", self.scene, "encode_scene")] if self.scene not in (None, self.backbone) else []
        parts += [("pixel decoder", self.pixel_decoder, "forward")] if decoders else []
        if decoders and isinstance(self.mask_decoder, MaskDecoder):  # the other one's sizes depend on what is seen
            parts += [("mask decoder", self.mask_decoder, "forward")]
        for name, module, method in parts:  # not the modules themselves, whose weights would have other names
            setattr(module, method, for_first_size(getattr(module, method), name, self.compiled))

    def _adapted(self, bank: Tensor, scene: Scene | None, batch: int) -> Tensor:
        """The text bank as each image's scene changes it, ``[B, S, E]``."""
        if self.gca is None or scene is None:
            return bank.expand(batch, -1, -1)
        return self.gca(bank, scene)

    def _class_embed(self, heads: Iterable[Head], pixels: Pixels, scene: Scene | None) -> Tensor:
        """What the queries of heads are compared with words by, ``[N, B, Q, E]``; masks are let go head by head."""
        queries, inside, views = [], [], []
        for head in heads:
            queries.append(head.queries)
            inside.append(head.mask_logits.detach() > 0)
            if self.rai is not None and scene is not None:
                views.append(self.rai.view(head, scene))
        embed = self.class_embedding(torch.stack(queries), inside, pixels.mask_features)
        return embed if self.rai is None else self.rai(embed, views)

    def _losses(self, images: ImageList, inputs: list[dict]) -> dict[str, Tensor]:
        pyramid, scene = self._towers(images.tensor)
        text = self.vocabulary(self.train_names)
        bank = self._adapted(text.embeds, scene, len(inputs))
        with stage("pixel decoder"):
            pixels = self.pixel_decoder(pyramid)
        targets = [self._target(item, images.tensor.shape[-2:]) for item in inputs]
        with stage("mask decoder"):
            decoded = self.mask_decoder(pixels, targets)

        def classify(heads: Iterable[Head]) -> Tensor:
            return self.classifier(self._class_embed(heads, pixels, scene), bank, text.counts)

        with stage("criterion"):
            return self.criterion(decoded, classify, targets)

    def _target(self, item: dict, padded: torch.Size) -> losses.Target:
        """Ground truth of one image, masks zero-padded as the image is."""
        instances = item["instances"]
        masks = instances.gt_masks.tensor.to(self.device)
        canvas = torch.zeros(len(masks), *padded, dtype=torch.bool, device=self.device)
        canvas[:, : masks.shape[-2], : masks.shape[-1]] = masks
        ignore = None
        if item.get("ignore") is not None and item["ignore"].any():
            ignore = torch.zeros(padded, dtype=torch.bool, device=self.device)
            ignore[: masks.shape[-2], : masks.shape[-1]] = item["ignore"].to(self.device)
        return losses.Target(instances.gt_classes.to(self.device), canvas, ignore)

    def _result(
        self, regions: Regions, index: int, chances: Tensor, item: dict, masks: Literal["bits", "rle"], semantic: bool
    ) -> dict:
        size, shown = regions.sizes[index], regions.shown(index)
        output = (int(item.get("height", size[0])), int(item.get("width", size[1])))
        place = (chances[shown], regions.mask_logits[index][shown], regions.padded, size, output)
        quality = None if regions.quality is None else regions.quality[index][shown]
        with stage("instances"):
            instances = self.selection(*place, quality=quality, masks=masks)
            instances.query = shown[instances.query]
        result = {"instances": instances}
        if semantic:
            with stage("semantic map"):
                result["sem_seg"] = semantic_map(*place, self.selection.chunk(output))
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
