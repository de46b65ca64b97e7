"""Does context help to name what has been found? RAI x GCA on one finder, everything but names being equal.

Usage: python benchmarks/context.py MODEL_FOLDER --train synthetic_train --validation synthetic_val
           --test synthetic_shifted_val [--seeds 5] [--steps 400] [--crops 600] [--limit 100] [--output FOLDER]

The towers, the pixel decoder and the mask decoder of MODEL_FOLDER are frozen, and what they say of each crop and image
is worked out once. On it the class path (class embedding, classifier, RAI, GCA) is trained from scratch for every cell
and seed: equal masks, equal batches in equal order, equal first weights of what cells share. So cells differ in how
objects are named, and in nothing else. Exponents: alpha is chosen on --validation for each cell, over its seeds; beta
is --beta, for a validation set without unseen classes cannot choose it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from score.data import catalog
from score.data.loaders import test_loader, test_records, train_loader
from score.data.mapper import TestMapper, TrainMapper
from score.engine.cache import CachedImage
from score.engine.predictions import encode
from score.evaluation.coco import coco_metrics
from score.evaluation.tables import Table
from score.files import sha256, shipped, write_text
from score.model.classifier import Ensemble
from score.model.mask_decoder import Head
from score.model.score import SCORE, Prediction, Regions
from score.model.towers.base import Scene, pool_regions
from score.studies.grid import Candidates, Grid, candidates, sweep
from score.weights import folder as model_folder

logger = logging.getLogger("context")
RAI, GCA = ("off", "small", "joint"), ("off", "reference", "tokens")  # small: the published module, one layer deep
CELLS = [*itertools.product(RAI, GCA), ("own", "off"), ("blind", "off")]
CONTROLS = {  # joint, without what makes it context
    "own": ["rai.scales=[1]", "rai.layers=0"],  # the scene tower sees the object itself, no neighbours
    "blind": [],  # equal weights, but there are no neighbours and no scene
}
IGNORED = -100  # what F.cross_entropy leaves out
GROUPS = ("all", "seen", "unseen")


@dataclass
class Found:
    """What the frozen finder says of an image: ``K`` objects, the surest, filled up with empty masks."""

    queries: Tensor  # [K, D]
    mask_logits: Tensor  # [K, h, w], half precision
    pooled: Tensor  # [K, D], mask features inside each mask
    embed: Tensor  # [E], of the scene
    patches: Tensor  # [E, h, w]
    wanted: Tensor  # [K], class in training, void last; IGNORED for what fills up
    image: Candidates | None = None  # of a test image: logits, quality and IoUs of its n <= K objects
    masks: CachedImage | None = None  # the same with the masks themselves


class ClassPath(nn.Module):
    """What names objects: the trainable part of a cell."""

    def __init__(self, config: DictConfig, rai: str, gca: str, gumbel_calls: int, seed: int) -> None:
        super().__init__()
        self.blind = rai == "blind"
        file = "joint" if rai in CONTROLS else rai
        choice = [
            f"rai={file}",
            *CONTROLS.get(rai, ()),
            f"gca={gca}",
            f"backbone.embed_dim={config.backbone.embed_dim}",
        ]
        choice += [f"rai.gumbel_calls={gumbel_calls}"] if rai == "small" else []
        with initialize_config_dir(str(shipped("configs")), version_base="1.3"):
            context = compose("config", choice)
        network = config.model.network
        parts = {"embedding": network.class_embedding, "classifier": network.classifier}
        for name, part in (parts | {"rai": context.rai, "gca": context.gca}).items():
            torch.manual_seed(seed)  # equal parts of different cells begin alike
            setattr(self, name, instantiate(part) if part else None)

    def forward(self, found: Sequence[Found], bank: Tensor, counts: Sequence[int], off: str = "") -> Tensor:
        """Logits ``[B, K, C + 1]`` of images with masks of one size; ``off`` leaves a context module out."""
        queries, masks, pooled, embed, patches = (
            torch.stack([getattr(item, name) for item in found]).float()
            for name in ("queries", "mask_logits", "pooled", "embed", "patches")
        )
        scene = Scene(embed, patches)
        if self.blind:
            masks, scene = torch.full_like(masks, -1.0), Scene(torch.zeros_like(embed), torch.zeros_like(patches))
        x = self.embedding.mlp(queries + self.embedding.pooled_proj(pooled))
        if self.rai is not None and off != "rai":
            [x] = self.rai(x[None], [self.rai.view(Head(queries, masks), scene)])
        bank = bank.expand(len(found), -1, -1) if self.gca is None or off == "gca" else self.gca(bank, scene)
        return self.classifier(x, bank, counts)


class Finder:
    """A trained model, asked for all that comes before names.

    Args:
        keep: objects of an image.
    """

    def __init__(self, model: SCORE, keep: int) -> None:
        self.model, self.keep = model.eval(), keep
        model.class_embedding.register_forward_pre_hook(lambda _, given: setattr(self, "_given", given))

    @torch.no_grad()
    def _look(self, item: dict[str, Any], names: Sequence[str]) -> tuple[Found, Tensor, Prediction]:
        """What is found, which queries these are, and the model's own prediction."""
        vocabulary = self.model.vocabulary(self.model.train_names)
        regions = self.model.look([item])
        [queries], _, features = self._given
        own = self.model.ask(regions, vocabulary)
        chosen = self._surest(regions, own.in_logits[0])
        masks = regions.mask_logits[0, chosen]
        pooled = pool_regions(features, (masks > 0)[None])[0]
        fill = self.keep - len(chosen)
        assert regions.scene is not None
        found = Found(
            F.pad(queries[0, chosen], (0, 0, 0, fill)),
            F.pad(masks.clamp(-1e4, 1e4), (0, 0, 0, 0, 0, fill), value=-1.0).half(),
            F.pad(pooled, (0, 0, 0, fill)),
            regions.scene.embed[0],
            regions.scene.patches[0],
            torch.full((self.keep,), IGNORED),
        )
        return (
            found,
            chosen,
            own
            if list(names) == list(self.model.train_names)
            else self.model.ask(regions, self.model.vocabulary(names)),
        )

    def _surest(self, regions: Regions, logits: Tensor) -> Tensor:
        """Queries of the best masks that the model would show, in their own order."""
        shown = regions.shown(0)
        sure = 1 - logits[shown].softmax(-1)[:, -1]
        if regions.quality is not None:
            sure = sure * regions.quality[0, shown]
        return shown[sure.topk(min(self.keep, len(shown))).indices].sort().values

    def crops(self, dataset: str, mapper: TrainMapper, count: int) -> list[Found]:
        """Training crops, with the class that each object is to have: the matcher's and the model's own opinion."""
        torch.manual_seed(0)  # of the matcher's points
        made = []
        loader = (item for [item] in train_loader(dataset, mapper, 1, 0, seed=0) if len(item["instances"]))
        for item in itertools.islice(loader, count):
            found, chosen, own = self._look(item, self.model.train_names)
            truth = item["instances"]
            n, void = len(chosen), len(self.model.train_names)
            found.wanted[:n] = void
            masks = found.mask_logits[:n].float()
            background = F.interpolate(item["ignore"][None, None].float(), masks.shape[-2:], mode="area")[0, 0] < 0.5
            inside = masks > 0
            known = (inside & background).sum((-2, -1)) * 2 >= inside.sum((-2, -1))
            found.wanted[:n][~known] = IGNORED
            objects = truth.gt_masks.tensor
            query, target = self.model.criterion.matcher(own.in_logits[0, chosen], masks, truth.gt_classes, objects)
            found.wanted[query] = truth.gt_classes[target]
            made.append(found)
        return made

    def images(self, dataset: str, limit: int | None) -> list[Found]:
        """Test images, with IoUs of objects and truth."""
        names = list(MetadataCatalog.get(dataset).thing_classes)
        records = test_records(dataset, limit)
        made = []
        for record, [item] in zip(records, test_loader(records, TestMapper(*self.model.resize), 0), strict=True):
            found, chosen, prediction = self._look(item, names)
            part = encode(prediction, 0, item)
            place = torch.searchsorted(prediction.regions.shown(0), chosen).numpy()
            arrays = {key: getattr(part, key)[place] for key in ("in_logits", "out_logits", "quality")}
            found.masks = replace(part, **arrays, rles=[part.rles[i] for i in place])
            found.image = candidates(found.masks, record)
            made.append(found)
        return made


def train(path: ClassPath, crops: Sequence[Found], bank: Tensor, counts: list[int], options: Any, seed: int) -> None:
    """Train a class path as the model's own optimiser and loss would, on the last head alone."""
    weights = torch.ones(len(counts) + 1)
    weights[-1] = options.void_weight
    optimiser = torch.optim.AdamW(path.parameters(), lr=options.lr, weight_decay=options.weight_decay)
    decay = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1, (step + 1) / 40) * (1 - step / options.steps) ** 0.9
    )
    generator = torch.Generator().manual_seed(seed)
    order: Iterator[int] = itertools.chain.from_iterable(
        iter(lambda: torch.randperm(len(crops), generator=generator).tolist(), None)
    )
    torch.manual_seed(seed)  # of dropout
    path.train()
    for _ in range(options.steps):
        batch = [crops[index] for index in itertools.islice(order, options.batch)]
        wanted = torch.stack([item.wanted for item in batch])
        logits = path(batch, bank, counts)
        loss = F.cross_entropy(logits.transpose(1, 2), wanted, weights)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(path.parameters(), 1.0)
        optimiser.step()
        decay.step()
    path.eval()


@torch.no_grad()
def named(path: ClassPath, images: Sequence[Found], bank: Tensor, counts: list[int], off: str = "") -> list[Candidates]:
    """Test images with this class path's logits."""
    made = []
    for item in images:
        assert item.image is not None
        logits = path([item], bank, counts, off)[0, : len(item.image.in_logits)]
        made.append(replace(item.image, in_logits=logits.numpy()))
    return made


def changed(
    before: Sequence[Candidates], after: Sequence[Candidates], beta: float, seen: Sequence[bool]
) -> list[float | None]:
    """Share of objects that another class wins, in percent.

    Returns:
        Of objects that overlap a true one by half, by the trained classifier and by the ensemble; then of all objects.
    """
    ensemble, flags = Ensemble(alpha=0.4, beta=beta), torch.tensor(seen)
    hit, differ = [], []
    for one, other in zip(before, after, strict=True):
        overlap = one.overlap.max(axis=1) if one.overlap.size else np.zeros(len(one.quality))
        hit.append(overlap >= 0.5)
        winners = []
        for item in (one, other):
            inside = torch.from_numpy(item.in_logits)
            both = ensemble(inside, torch.from_numpy(item.out_logits), flags)
            winners.append(torch.stack([inside[:, :-1].argmax(-1), both[:, :-1].argmax(-1)]).numpy())  # [2, n]
        differ.append(winners[0] != winners[1])
    of_true, every = np.concatenate(hit), np.concatenate(differ, axis=1)
    return [100 * float(row.mean()) if row.size else None for row in (*every[:, of_true], *every)]


def by_truth(images: Sequence[Candidates]) -> list[Candidates]:
    """Every mask named as the true object that it overlaps most; whether it is void at all stays as it is."""
    made = []
    for image in images:
        if image.overlap.size:
            classes = np.eye(image.out_logits.shape[1], dtype=np.float32)[image.labels[image.overlap.argmax(axis=1)]]
            logits = np.log(np.maximum(classes, 1e-9), dtype=np.float32)
            void = torch.from_numpy(image.in_logits).softmax(-1)[:, -1:].clamp(1e-6, 1 - 1e-6).logit().numpy()
            image = replace(image, in_logits=np.concatenate([logits, void], axis=1), out_logits=logits)
        made.append(image)
    return made


def milliseconds(path: ClassPath, images: Sequence[Found], bank: Tensor) -> dict[str, float]:
    """Median time of each context module an image, warm."""
    item = images[0]
    scene, head = Scene(item.embed[None], item.patches[None]), Head(item.queries[None], item.mask_logits[None].float())
    embed = torch.randn(1, len(item.queries), bank.shape[1], generator=torch.Generator().manual_seed(0))
    calls = {"rai": lambda: path.rai(embed[None], [path.rai.view(head, scene)]), "gca": lambda: path.gca(bank, scene)}
    spent = {}
    for name, call in calls.items():
        if getattr(path, name) is not None:
            times = []
            for _ in range(40):
                start = time.perf_counter()
                with torch.no_grad():
                    call()
                times.append(1000 * (time.perf_counter() - start))
            spent[name] = statistics.median(times[10:])
    return spent


def spread(values: Sequence[float]) -> float:
    """Half of the 95 % interval of a mean, by Student's t."""
    if len(values) < 2:
        return float("nan")
    return float(stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5)


def check(
    images: Sequence[Found], cell: Sequence[Candidates], records: Any, names: list[str], seen: list[bool]
) -> None:
    """The figures of cells are those that the evaluator has of the masks themselves."""
    detections = {}
    for item, image in zip(images, cell, strict=True):
        assert item.masks is not None
        kept = replace(item.masks, in_logits=image.in_logits)
        detections[kept.image_id] = kept.instances(Ensemble(alpha=0.4, beta=0.8), torch.tensor(seen), 300)
    whole = coco_metrics(records, detections, names, seen)
    fast = sweep(cell, seen, [0.4], [0.8])
    assert abs(whole["all"]["AP"] - fast.mean("all")[0, 0]) < 1e-6, (whole["all"]["AP"], fast.mean("all"))


def study(options: argparse.Namespace) -> dict[str, Any]:
    """Train and score every cell for every seed; what is done is in ``results.json`` of the output, and stays."""
    catalog.register(None)
    model, config = model_folder.load(options.model)
    settings = {key: value for key, value in config.input.train.items() if key != "_target_"}
    finder = Finder(model, options.keep)
    sets = [options.validation, *options.test]
    start = time.perf_counter()
    facts = {key: getattr(options, key) for key in ("train", "validation", "test", "crops", "keep", "limit")}
    facts["weights"] = sha256(options.model / model_folder.WEIGHTS)
    kept = torch.load(options.cache, weights_only=False) if options.cache and options.cache.is_file() else [None]
    if kept[0] == facts:
        _, crops, images = kept
    else:
        crops = finder.crops(options.train, TrainMapper(**{**settings, "ignore": True, "seed": 0}), options.crops)
        images = {name: finder.images(name, options.limit) for name in sets}
        if options.cache:
            torch.save([facts, crops, images], options.cache)
    logger.info("finder: %.0f s", time.perf_counter() - start)
    banks, seen = {}, {}
    for name, words in [("train", model.train_names), *((n, MetadataCatalog.get(n).thing_classes) for n in sets)]:
        vocabulary = model.vocabulary(list(words))
        banks[name], seen[name] = (vocabulary.embeds, vocabulary.counts), vocabulary.seen.tolist()
    options.void_weight = model.criterion.void_weight
    alphas, betas = (np.linspace(0, 1, count).round(1).tolist() for count in (11, 6))
    matched = sum(int(((c.wanted >= 0) & (c.wanted < len(model.train_names))).sum()) for c in crops)
    result: dict[str, Any] = {
        **{key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    }
    result |= {
        "sets": sets,
        "alphas": alphas,
        "betas": betas,
        "objects": matched,
        "runs": [],
        "finder": {},
    }
    for name in sets:
        image_list = [item.image for item in images[name]]
        result["finder"][name] = means(sweep(image_list, seen[name], alphas, betas))
    results = options.output / "results.json"
    result["facts"] = facts | {key: getattr(options, key) for key in ("steps", "batch", "lr", "weight_decay")}
    if results.is_file() and (before := json.loads(results.read_text())).get("facts") == result["facts"]:
        result["runs"] = before["runs"]  # of a study that was cut off, or had fewer cells or seeds
    done = {(run["seed"], (run["rai"], run["gca"])) for run in result["runs"]}
    for seed, (rai, gca) in itertools.product(range(options.seeds), options.cells):
        if (seed, (rai, gca)) in done:
            continue
        start = time.perf_counter()
        path = ClassPath(config, rai, gca, options.steps // 20, seed)
        train(path, crops, *banks["train"], options, seed)
        run: dict[str, Any] = {"rai": rai, "gca": gca, "seed": seed, "train_s": time.perf_counter() - start}
        run |= {"sets": {}, "truth": {}, "changed": {}, "ms": milliseconds(path, images[sets[-1]], banks[sets[-1]][0])}
        if rai == "joint":
            run["scales"] = path.rai.scale_logits.softmax(0).tolist()
        for name in sets:
            cell = named(path, images[name], *banks[name])
            if not result["runs"]:
                check(images[name], cell, test_records(name, options.limit), model_names(name), seen[name])
            run["sets"][name] = means(sweep(cell, seen[name], alphas, betas))
            run["truth"][name] = means(sweep(by_truth(cell), seen[name], [0.0], [0.0]))
            for part in run["ms"] if name in options.test else ():
                run["changed"].setdefault(part, {})[name] = changed(
                    cell, named(path, images[name], *banks[name], off=part), options.beta, seen[name]
                )
        result["runs"].append(run)
        at = alphas.index(0.4)
        told = ", ".join(f"{name} {run['sets'][name]['all']['AP'][at][-2]:.1f}" for name in sets)
        logger.info("seed %d rai=%s gca=%s: %s (%.0f s)", seed, rai, gca, told, time.perf_counter() - start)
        write_text(results, json.dumps(result, indent=1))
        write_text(options.output / "results.md", report(result))
    return result


def model_names(dataset: str) -> list[str]:
    """The classes of a registered dataset."""
    return list(MetadataCatalog.get(dataset).thing_classes)


def means(grid: Grid) -> dict[str, Any]:
    """AP and AP50 of every group, ``[A, B]``, None where undefined."""
    found = {group: {metric: grid.mean(group, metric) for metric in ("AP", "AP50")} for group in GROUPS}
    return {
        group: {metric: np.where(np.isnan(v), None, v).tolist() for metric, v in row.items()}
        for group, row in found.items()
    }


VIEWS = {  # which alpha a table is at
    "chosen": "ensemble, each cell's alpha chosen on {validation}",
    "oracle": "ensemble, each cell's alpha the best for this very set: nobody has it, it only tells naming from trust",
    "alone": "trained classifier alone",
}


class Runs:
    """The runs of a study by cell, and their figures."""

    def __init__(self, result: dict[str, Any]) -> None:
        self.result = result
        self.of = {c: [run for run in result["runs"] if (run["rai"], run["gca"]) == c] for c in CELLS}
        self.cells = [cell for cell in CELLS if self.of[cell]]

    def values(self, cell: tuple[str, str], dataset: str, group: str, metric: str, view: str) -> list[float]:
        """A figure of each seed."""
        row, column = self.at(cell, dataset, view)
        return [run["sets"][dataset][group][metric][row][column] for run in self.of[cell]]

    def at(self, cell: tuple[str, str], dataset: str, view: str) -> tuple[int, int]:
        """The place of a view's exponents."""
        if view == "alone":
            return 0, 0
        column = self.result["betas"].index(self.result["beta"])
        chosen = self.result["validation"] if view == "chosen" else dataset
        curves = [[row[column] for row in run["sets"][chosen]["all"]["AP"]] for run in self.of[cell]]
        return int(np.mean(curves, axis=0).argmax()), column

    def gain(self, cell: tuple[str, str], base: tuple[str, str], *figure: str) -> str:
        """The mean difference of two cells, seed by seed, with its 95 % interval."""
        pairs = [a - b for a, b in zip(self.values(cell, *figure), self.values(base, *figure), strict=False)]
        return f"{statistics.mean(pairs):+.1f} ± {spread(pairs):.1f}" if len(pairs) > 1 else "-"

    def table(self, dataset: str, view: str) -> str:
        """Every cell's figures on a set."""
        alphas = self.result["alphas"]
        first = self.of[self.cells[0]][0]["sets"][dataset]
        groups = GROUPS if first["unseen"]["AP"][0][0] is not None else GROUPS[:1]
        figures = list(itertools.product(groups, ("AP", "AP50")))
        rows = []
        for cell in self.cells:
            row = [*cell, f"{alphas[self.at(cell, dataset, view)[0]]}"]
            for figure in figures:
                mean = f"{statistics.mean(self.values(cell, dataset, *figure, view)):.1f}"
                differs = cell != self.cells[0]
                row.append(f"{mean} ({self.gain(cell, self.cells[0], dataset, *figure, view)})" if differs else mean)
            rows.append(row)
        own = (0, 0) if view == "alone" else (4, self.result["betas"].index(0.8))
        for title, alpha, found in (
            ("as the finder was trained", f"{alphas[own[0]]}", [(self.result["finder"][dataset], own)]),
            ("first row, named by the truth", "", [(run["truth"][dataset], (0, 0)) for run in self.of[self.cells[0]]]),
        ):
            values = [statistics.mean(part[g][m][at[0]][at[1]] for part, at in found) for g, m in figures]
            rows.append([title, "", alpha, *(f"{value:.1f}" for value in values)])
        head = ["rai", "gca", "alpha", *(f"{metric} {group}" for group, metric in figures)]
        return Table(head, rows, keys=len(head)).markdown()


def report(result: dict[str, Any]) -> str:
    """Tables as Markdown: figures of every set, what the modules cost, and what they change."""
    runs, text = Runs(result), []
    for dataset, (view, title) in itertools.product(result["sets"], VIEWS.items()):
        title = title.format(validation=result["validation"])
        text += [f"{dataset}, {title}; mean over seeds, in brackets the difference to the first row with its 95 %", ""]
        text += [runs.table(dataset, view)]
        if {("small", "reference"), ("joint", "tokens")} <= set(runs.cells):
            gain = runs.gain(("joint", "tokens"), ("small", "reference"), dataset, "all", "AP", view)
            text += [f"joint, tokens over small, reference: {gain} AP", ""]
    rows = []
    for cell in runs.cells:
        for part in runs.of[cell][0]["ms"]:
            spent = statistics.median(run["ms"][part] for run in runs.of[cell])
            row = [*cell, part, f"{spent:.1f}"]
            for dataset in result["test"]:
                shares = np.array([run["changed"][part][dataset][:2] for run in runs.of[cell]], dtype=float)
                row.append(", ".join(f"{share:.1f}" for share in shares.mean(axis=0)))
            rows.append(row)
    text += [
        "Objects on true ones that get another name with a module off, in percent (trained classifier, ensemble)",
        "",
    ]
    text += [Table(["rai", "gca", "module", "ms", *result["test"]], rows, keys=4).markdown()]
    return "\n".join(text)


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--train", required=True)
    parser.add_argument("--validation", required=True)
    parser.add_argument("--test", nargs="+", required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--crops", type=int, default=600)
    parser.add_argument("--limit", type=int, default=100, help="images of each other set")
    parser.add_argument("--keep", type=int, default=60, help="objects of an image")
    parser.add_argument("--beta", type=float, default=0.8, choices=[0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    parser.add_argument(
        "--cells", nargs="+", type=lambda text: tuple(text.split("+")), default=CELLS, metavar="RAI+GCA"
    )
    parser.add_argument("--cache", type=Path, help="a file to keep the finder's part in")
    parser.add_argument("--output", type=Path, default=Path("runs/context"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--report", action="store_true", help="only lay out what OUTPUT/results.json holds")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.report:
        print(report(json.loads((options.output / "results.json").read_text())))
    else:
        print(report(study(options)))


if __name__ == "__main__":
    main()
