from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import score
from score.errors import ConfigError, DataError, OutputError, WeightsError
from score.model.score import Calibration
from score.segmenter import as_words
from tests.tiny_model import tiny_folder

TRAINED = ["ship", "storage_tank", "plane"]
WORDS = ["ship", "swimming pool", "palm tree"]
EVERYTHING: dict[str, Any] = {"score": 0.0, "top_k": None, "overlap": 1.0, "min_area": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model"
    return tiny_folder(path, TRAINED, "input.test.shortest=64", "input.test.longest=96")


@pytest.fixture
def segmenter(folder: Path) -> score.Segmenter:
    return score.Segmenter.from_pretrained(folder, "cpu")


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_images_that_are_looked_at_together_are_seen_as_alone(segmenter: score.Segmenter) -> None:
    images = [noise(*size, seed=seed) for seed, size in enumerate([(60, 90), (90, 60), (61, 91), (60, 90)])]
    views = segmenter.look_together(images)
    assert [view.pixels.shape for view in views] == [image.shape for image in images]
    for image, view in zip(images, views, strict=True):
        alone = segmenter.look(image).regions
        torch.testing.assert_close(view.regions.class_embed, alone.class_embed, rtol=1e-4, atol=1e-4)
        assert view.regions.sizes == alone.sizes
    assert segmenter.look_together([]) == []


def test_import_is_cheap() -> None:
    code = (
        "import score, sys; score.__version__; score.load_model; print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "order",
    [
        "score, detectron2.modeling",
        "detectron2.modeling, score",
        "score.model.matcher, detectron2.modeling",  # which import of ours is the first must not matter
        "score.model.criterion, detectron2.modeling",
    ],
)
def test_import_registers_the_meta_architecture(order: str) -> None:
    code = f"import {order}; print(detectron2.modeling.META_ARCH_REGISTRY.get('SCORE').__module__)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["score.model.score"]


def test_unknown_names_are_refused_as_usual() -> None:
    with pytest.raises(AttributeError, match="Segmentor"):
        score.Segmentor  # noqa: B018
    assert score.Result.__name__ == "Result"


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such model folder: demo; score train makes one"):
        score.Segmenter.from_pretrained("demo")


@pytest.mark.parametrize("size", [(50, 90), (200, 100), (33, 500)])
def test_detections_have_the_size_of_the_image(segmenter: score.Segmenter, size: tuple[int, int]) -> None:
    result = segmenter.segment(noise(*size), WORDS, **EVERYTHING)
    assert len(result) > 0 and result.size == size[::-1]
    assert all(item.mask.shape == size and item.name == WORDS[item.label] for item in result)
    assert all(item.seen == (item.name == "ship") and 0 <= item.score <= 1 for item in result)
    assert [item.score for item in result] == sorted((item.score for item in result), reverse=True)


def test_an_image_is_resized_to_what_the_model_was_made_for(folder: Path) -> None:
    for segmenter in (score.Segmenter(score.load_model(folder, "cpu")), score.Segmenter.from_pretrained(folder)):
        assert segmenter.look(noise(128, 192)).regions.sizes == [(64, 96)]
    assert score.Segmenter(segmenter.model, shortest=32).look(noise(128, 192)).regions.sizes == [(32, 48)]


def test_an_array_a_picture_and_a_path_give_the_same(segmenter: score.Segmenter, tmp_path: Path) -> None:
    image = noise(80, 120)
    Image.fromarray(image).save(tmp_path / "image.png")
    expected = segmenter.segment(image, WORDS, **EVERYTHING)
    for other in (Image.fromarray(image), tmp_path / "image.png", str(tmp_path / "image.png")):
        assert segmenter.segment(other, WORDS, **EVERYTHING) == expected


def test_what_it_finds_is_what_the_model_says(segmenter: score.Segmenter) -> None:
    """An image of the test size needs no resizing: the model's own masks are the detections'."""
    image = noise(64, 96)
    inputs = [{"image": torch.from_numpy(image).permute(2, 0, 1), "height": 64, "width": 96}]
    with torch.inference_mode():
        [output] = segmenter.model(inputs, segmenter.vocabulary(WORDS))
    instances = output["instances"]
    instances = instances[instances.pred_classes < 3]  # the others are distractors
    order = instances.scores.argsort(descending=True, stable=True)
    found = segmenter.segment(image, WORDS, **EVERYTHING).detections
    assert len(found) == 60  # each of 20 queries as each word
    assert [item.label for item in found] == instances.pred_classes[order].tolist()
    assert [item.score for item in found] == pytest.approx(instances.scores[order].tolist())
    assert (np.stack([item.mask for item in found]) == instances.pred_masks[order].numpy()).all()


def test_words_are_asked_of_what_was_looked_at(segmenter: score.Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise(80, 120)
    expected = [segmenter.segment(image, words, **EVERYTHING) for words in (WORDS, ["quay"])]
    view = segmenter.look(image)
    monkeypatch.setattr(type(segmenter.model), "look", None)  # the network runs no more
    assert [view.ask(words, **EVERYTHING) for words in (WORDS, ["quay"], WORDS)] == [*expected, expected[0]]


def test_two_segmenters_and_threads_share_a_model(segmenter: score.Segmenter) -> None:
    """What one asks for changes nothing for another, whatever their settings."""
    other = score.Segmenter(segmenter.model, shortest=32, longest=48)
    jobs = [(who, noise(80, 120, seed), words) for seed in range(3) for who in (segmenter, other) for words in
            (WORDS, ["quay"])]  # fmt: skip
    expected = [who.segment(image, words, **EVERYTHING) for who, image, words in jobs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda job: job[0].segment(job[1], job[2], **EVERYTHING), jobs))
    assert found == expected
    assert {item.name for item in expected[0]} == set(WORDS) and {item.name for item in expected[1]} == {"quay"}


def test_choices(segmenter: score.Segmenter) -> None:
    view = segmenter.look(noise(80, 120))
    everything = view.ask(WORDS, **EVERYTHING).detections
    middle = everything[len(everything) // 2]
    assert view.ask(WORDS, **{**EVERYTHING, "top_k": 2}).detections == everything[:2]
    chosen = view.ask(WORDS, **{**EVERYTHING, "score": middle.score}).detections
    assert chosen == [item for item in everything if item.score >= middle.score]
    assert all(item.area >= 100 for item in view.ask(WORDS, **{**EVERYTHING, "min_area": 100}))
    apart = view.ask(WORDS, **{**EVERYTHING, "overlap": 0.5})
    assert len(apart) < len(view.ask(WORDS, **{**EVERYTHING, "overlap": 0.5, "per_class": True})) < len(everything)


def test_seen_and_unseen_words_have_thresholds_of_their_own(segmenter: score.Segmenter) -> None:
    """Between a tenth of its threshold and the threshold an object is counted, not shown."""
    view = segmenter.look(noise(80, 120))
    every = {**EVERYTHING, "score": None}
    scores = {word: [item.score for item in view.ask(WORDS, **EVERYTHING) if item.name == word] for word in WORDS[:2]}
    least = {word: values[3] for word, values in scores.items()}  # the fourth best
    segmenter.model.calibration = Calibration(seen=least["ship"], unseen=least["swimming pool"])
    result = view.ask(WORDS[:2], **every)
    assert result.thresholds == least
    for word in WORDS[:2]:
        values = [item.score for item in view.ask(WORDS[:2], **EVERYTHING) if item.name == word]
        assert result.counts[word] == sum(value >= least[word] for value in values)
        assert result.below[word] == sum(0.1 * least[word] <= value < least[word] for value in values)
    assert view.ask(WORDS[:2], **{**every, "score": 0.9}).thresholds == dict.fromkeys(WORDS[:2], 0.9)


def test_the_better_of_two_masks_exceeds_its_threshold_by_more(segmenter: score.Segmenter) -> None:
    """An unseen word with a low threshold is not hidden by a seen one that scores higher but is less sure."""
    view = segmenter.look(noise(80, 120))
    apart = {"min_area": 0, "top_k": None, "overlap": 0.0}
    segmenter.model.calibration = Calibration(seen=1.0, unseen=1e-6)
    assert {item.seen for item in view.ask(WORDS, **apart)} == {False}
    segmenter.model.calibration = Calibration(seen=1e-6, unseen=1.0)
    assert {item.seen for item in view.ask(WORDS, **apart)} == {True}


def test_a_word_asked_alone_is_told_from_distractors(segmenter: score.Segmenter) -> None:
    """Without them a vocabulary of one word has probability 1 of every region that is no void."""
    image = noise(80, 120)
    segmenter.model.calibration = Calibration(distractors=("road", "Ship,boat", "grass"))
    vocabulary = segmenter.vocabulary("plane")
    assert vocabulary.names == ["plane", "ship", "storage_tank", "road", "grass"]
    assert vocabulary.seen.tolist() == [True, True, True, False, False]
    assert segmenter.vocabulary(["Plane, aircraft", "tree, grass"]).names[2:] == ["ship", "storage_tank", "road"]
    alone = segmenter.segment(image, "plane", **EVERYTHING)
    among = segmenter.segment(image, [*TRAINED, "road", "grass"], **EVERYTHING)
    assert alone.words == ["plane"]
    assert [item.score for item in alone] == pytest.approx([item.score for item in among if item.name == "plane"])


def test_a_training_word_that_means_the_same_is_no_distractor(segmenter: score.Segmenter) -> None:
    embeds = {name: segmenter.model.text([name]).embeds[0] for name in TRAINED}
    near = torch.nn.functional.normalize(embeds["plane"] + 0.05 * embeds["ship"], dim=0)
    encode = segmenter.model.text.__call__

    class Text:
        def __call__(self, names: list[str]) -> Any:
            bank = encode(names)
            return bank._replace(embeds=near[None]) if names == ["aeroplane"] else bank

    segmenter.model.text = Text()  # type: ignore[assignment]
    assert segmenter.vocabulary("aeroplane").names == ["aeroplane", "ship", "storage_tank"]


def test_words_are_a_word_or_several() -> None:
    assert as_words("storage tank") == ["storage tank"]
    assert as_words(("ship", "plane")) == ["ship", "plane"]
    assert as_words({"ship", "plane", "car"}) == ["car", "plane", "ship"]
    for wrong in (5, [1, 2], {0: "ship"}, None, ["ship", None], b"ship"):
        with pytest.raises(ConfigError, match="give a word or a list of words"):
            as_words(wrong)  # type: ignore[arg-type]


def test_words_that_are_none_are_refused(segmenter: score.Segmenter) -> None:
    view = segmenter.look(noise(80, 120))
    for words in ([], ["ship", "Ship"], ["storage tank", "tank, storage_tank"], ["ship", " "], ""):
        with pytest.raises(ConfigError):
            view.ask(words)


def test_what_is_no_image_is_refused(segmenter: score.Segmenter, tmp_path: Path) -> None:
    for wrong in (noise(8, 8)[..., 0], noise(8, 8).astype(np.float32), noise(8, 8)[:0]):
        with pytest.raises(DataError, match="uint8 RGB"):
            segmenter.look(wrong)
    with pytest.raises(DataError, match="no such image"):
        segmenter.look(tmp_path / "missing.png")


@pytest.mark.parametrize(
    ("choice", "message"),
    [({"score": float("nan")}, "score=nan"), ({"overlap": -1}, "overlap=-1"), ({"top_k": 2.5}, "top_k=2.5"),
     ({"top_k": -1}, "top_k=-1"), ({"min_area": "a"}, "min_area=a"), ({"score": "a"}, "score=a")],
)  # fmt: skip
def test_a_choice_that_is_none_is_refused(segmenter: score.Segmenter, choice: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        segmenter.segment(noise(40, 60), "ship", **choice)


def test_what_can_never_be_an_image_is_refused(segmenter: score.Segmenter, tmp_path: Path) -> None:
    for wrong in (None, 5):
        with pytest.raises(DataError, match="give a path"):
            segmenter.segment(wrong, "ship")
    with pytest.raises(OutputError, match="not a format"):
        segmenter.segment(noise(40, 60), "ship").save(tmp_path / "x.psd")


def test_threads_may_ask_for_new_words_at_once(segmenter: score.Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    tower, inside = segmenter.model.backbone, []
    encode = tower.encode_text

    def alone(prompts: list[str]) -> torch.Tensor:
        inside.append(1)
        assert len(inside) == 1, "two threads in the text tower"
        found = encode(prompts)
        inside.pop()
        return found

    monkeypatch.setattr(tower, "encode_text", alone)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(segmenter.vocabulary, [f"word {number}" for number in range(40)]))
