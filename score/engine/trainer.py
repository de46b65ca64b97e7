"""Training: from a config to a model folder, on detectron2's trainers and hooks."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch
from detectron2.engine import AMPTrainer, SimpleTrainer, hooks
from detectron2.utils import comm
from detectron2.utils.events import JSONWriter, TensorboardXWriter, get_event_storage
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import setup_globals
from omegaconf import DictConfig
from PIL import Image
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from score import runtime
from score.data.loaders import train_loader
from score.engine import checks, progress
from score.engine.average import MovingAverage
from score.engine.checkpoint import RunCheckpointer, check_same, has_checkpoint, read_last, restore
from score.engine.evaluate import evaluate, register
from score.engine.optim import ClippedAdamW, parameter_groups, warmed_up
from score.errors import ConfigError, DataError, ScoreError
from score.evaluation.tables import overview
from score.files import save_json
from score.model.score import SCORE
from score.weights import folder as model_folder
from score.weights import known
from score.weights.start import initialise

logger = logging.getLogger(__name__)


def train(config: DictConfig, command: str = "") -> Path:
    """Train a model as a config says, and write its folder.

    Args:
        config: composed from ``configs/config.yaml``.
        command: what was typed, for the model's card.

    Returns:
        The model folder.

    Raises:
        ScoreError: the config, a dataset, the towers' weights or the output folder cannot be used; nothing has been
            written then. Or the loss is no longer finite.
    """
    runtime.join_processes(config.runtime.device)
    checks.check_numbers(config)
    checks.check_processes(config, comm.get_world_size())
    checks.check_output(Path(config.output), config.resume, config.overwrite)
    comm.synchronize()  # before any process writes
    if config.runtime.gpus > 1:
        try:
            hydra_config = HydraConfig.instance().cfg  # other processes need it for what refers to Hydra
            runtime.start_processes(config.runtime.gpus, config.runtime.device, _child, hydra_config, config, command)
        except torch.multiprocessing.ProcessRaisedException as error:
            if line := re.search(r"^score\.errors\.\w+: (.*)", str(error), flags=re.MULTILINE):
                raise ScoreError(line[1]) from None
            raise
    else:
        run(config, command)
    return Path(config.output)


def _child(hydra_config: Any, config: DictConfig, command: str) -> None:
    setup_globals()
    HydraConfig.instance().cfg = hydra_config
    run(config, command)


def run(config: DictConfig, command: str) -> None:
    """What each process does."""
    runtime.log_to_stdout()
    device = runtime.select_device(config.runtime.device, config.runtime.threads)
    [name] = register([config.data.train], config.paths.datasets, learn=True)
    test_names = register(config.data.test, config.paths.datasets) if config.data.test else []
    data = progress.facts(name)
    if not data.instances:
        raise DataError(f"{data.name} has no annotations, there is nothing to learn; choose another data.train")
    tests = [progress.facts(test) for test in test_names]
    config.model.train_names = [model_folder.literal(name) for name in data.classes]
    output = Path(config.output)
    anew = config.resume == "auto" and not has_checkpoint(output / "checkpoints")
    state = read_last(output / "checkpoints") if config.resume and not anew else None
    facts = progress.lasting(config, data)
    check_same(state or {}, facts, output)
    if state and state["iteration"] + 1 >= config.optim.iterations:
        if config.resume == "auto":
            logger.info(f"{output}: trained to the end before")
            return
        raise ConfigError(f"{output} is trained to the end, iteration {state['iteration'] + 1}; raise optim.iterations")

    runtime.seed_everything(config.seed)
    model = model_folder.build(config).to(device)
    started = initialise(model, known.find(config.init)) if config.init and not state else None
    for words in (model.train_names, *(test.classes for test in tests)):
        model.vocabulary(words)  # the text bank in full precision, before any autocast
    model.backbone.drop_text()  # these are all that a run asks for
    model.lower_towers(runtime.tower_precision(config.runtime.towers, device))
    if config.runtime.recompute:
        model.recompute()
    if config.runtime.compile:
        model.compile_parts(decoders=False)
    facts |= {"backbone": model.backbone.identity, "scene": model.scene.identity if model.scene else "off"}
    session = Session(config, model, data, tests, device, facts, state)
    if comm.is_main_process():
        logger.info(progress.describe(model, data, tests, session.settings()))
        if started:
            logger.info(f"start       {started}")
        if config.overwrite and not config.resume:
            checks.clear(output)
        model_folder.save_config(output, config)
    comm.synchronize()
    session.train(command)


class Session:
    """One training run in one process: a detectron2 trainer with its hooks, and what they need.

    Building it writes nothing.

    Args:
        model: on its device, weights as they are to start from.
        facts: what must stay the same when the run goes on, setting to value.
        state: a checkpoint to go on from, or None.
    """

    def __init__(
        self,
        config: DictConfig,
        model: SCORE,
        data: progress.DatasetFacts,
        tests: list[progress.DatasetFacts],
        device: torch.device,
        facts: Mapping[str, Any],
        state: Mapping[str, Any] | None,
    ) -> None:
        self.config, self.model, self.data, self.tests, self.device = config, model, data, tests, device
        self.output = Path(config.output)
        self.results: dict[str, dict[str, Any]] = {}
        self.amp = checks.precision(config.runtime.amp, device)
        optim = config.optim
        self.start = int(state["iteration"]) + 1 if state else 0
        decay = checks.decay(hydra.utils.instantiate(optim.decay, _convert_="all"))
        self.schedule = warmed_up(decay, iterations=optim.iterations, warmup=optim.warmup, factor=optim.warmup_factor)
        groups = parameter_groups(model, optim.weight_decay, optim.no_decay)
        optimiser = ClippedAdamW(groups, lr=optim.lr, clip_norm=optim.clip_norm)
        loader = train_loader(
            data.name,
            hydra.utils.instantiate(config.input.train, _convert_="all"),
            optim.batch_size,
            config.runtime.workers,
            config.seed,
            start=self.start * optim.batch_size,
        )
        self.batches = iter(loader)
        self.trainer = _trainer(_distributed(model, device), self.batches, optimiser, self.amp, device)
        self.average = None if optim.ema is None else MovingAverage(model, optim.ema)
        self.checkpointer = RunCheckpointer(
            model,
            str(self.output / "checkpoints"),
            keep=optim.checkpoints,
            facts=facts,
            save_to_disk=comm.is_main_process(),
            trainer=self.trainer,
            **({"average": self.average} if self.average else {}),
        )
        if state:
            check_same(state, facts, self.output)
            restore(state, model, self.trainer)
            if self.average:
                self.average.load_state_dict(state.get("average", state["model"]))

    def settings(self) -> dict[str, Any]:
        """How it will be trained, title to words."""
        optim, steps = self.config.optim, f"{self.config.optim.iterations:,} iterations"
        if self.start:
            steps += f", from {self.start:,} on,"
        return {
            "schedule": f"{steps} of {optim.batch_size} images, AdamW at {optim.lr:g}, decay {optim.weight_decay:g}, "
            f"gradient norm at most {optim.clip_norm:g}"
            + (f", weights averaged with decay {optim.ema:g}" if self.average else ""),
            "runtime": f"{self.device} x {comm.get_world_size()}, amp {self.amp}, seed {self.config.seed}",
            "output": self.output,
        }

    def train(self, command: str) -> None:
        """Run to the end, then write the model folder; figures follow once it is safe.

        Raises:
            ScoreError: the loss is no longer finite.
        """
        self.trainer.register_hooks(self._hooks())
        try:
            self.trainer.train(self.start, self.config.optim.iterations)
        except (FloatingPointError, ValueError) as error:  # of detectron2, and of the matching, whichever sees it first
            if isinstance(error, ValueError) and "invalid numeric entries" not in str(error):
                raise
            raise ScoreError(
                f"the loss became infinite or NaN at iteration {self.trainer.iter + 1} of {self.output}; "
                "try a lower optim.lr, or runtime.amp=off"
            ) from error
        except KeyboardInterrupt:
            last = self.checkpointer.get_checkpoint_file()
            logger.warning(f"resume=true goes on from {last}" if last else "interrupted before the first checkpoint")
            raise
        finally:  # left to the garbage collector, worker processes can block it for seconds
            getattr(self.batches, "_shutdown_workers", lambda: None)()
        if comm.is_main_process():
            card = progress.card(self.config, self.data, self.results, command)
            model_folder.save_card(self.output, self.model, self.config, card)
            logger.info(f"model folder: {self.output}")

    def _hooks(self) -> list[Any]:
        optim = self.config.optim
        # Each step draws from its own seed, so a resumed run draws what the uninterrupted one would have drawn.
        seed = hooks.CallbackHook(before_step=lambda trainer: runtime.seed_everything(self.config.seed, trainer.iter))
        found = [seed, hooks.IterationTimer(), hooks.LRScheduler(scheduler=self.schedule)]
        if average := self.average:  # before a checkpoint is written
            found.append(hooks.CallbackHook(after_step=lambda trainer: average.update(trainer.iter)))
        if comm.is_main_process():
            found.append(hooks.PeriodicCheckpointer(self.checkpointer, optim.checkpoint_period))
            found.append(hooks.CallbackHook(after_train=self._save))
        if self.tests:
            found.append(hooks.EvalHook(optim.eval_period, self.evaluate))
        if comm.is_main_process():
            writers = [
                progress.ProgressLine(optim.iterations),
                JSONWriter(str(self.output / "metrics.json")),
                TensorboardXWriter(str(self.output)),
            ]
            found.append(hooks.PeriodicWriter(writers, period=optim.log_period))
        return found

    def _save(self, trainer: SimpleTrainer) -> None:
        """Write the model folder before the last evaluation, should that fail."""
        if trainer.iter >= self.config.optim.iterations:
            with self._averaged():
                model_folder.save(self.output, self.model, self.config, {})

    def _averaged(self) -> AbstractContextManager[None]:
        """Within it the model has the weights that the run hands out: the average, where there is one."""
        return self.average.in_place() if self.average else nullcontext()

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Score the model on each test set; files beside the weights, pictures to TensorBoard, figures to the log."""
        settings = self.config.evaluation
        scalars: dict[str, dict[str, float]] = {}
        for test in self.tests:
            pictures = self.output / "pictures" / test.name
            with self._averaged():
                results = evaluate(
                    self.model,
                    test.name,
                    workers=self.config.runtime.workers,
                    batch_size=self.config.evaluation.batch_size,
                    max_detections=settings.max_detections,
                    limit=settings.limit,
                    pictures=settings.pictures,
                    picture_folder=pictures,
                )
            if not results:
                continue
            self.results[test.name] = results
            logger.info(f"\n{test.name}\n{overview(results)}\n")
            save_json(self.output / "evaluation" / f"{test.name}.json", results)
            if settings.pictures:
                _show(pictures, test.name)
            scalars[test.name] = progress.scalars(results)
        return scalars


class Autocast(nn.Module):
    """A model whose forward pass runs in bfloat16 where PyTorch deems that safe; needs no loss scaling."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.model, self.device_type = model, device.type

    def forward(self, inputs: list[dict]) -> dict[str, torch.Tensor]:
        """The model's losses."""
        with torch.autocast(self.device_type, dtype=torch.bfloat16):
            return self.model(inputs)


def _trainer(
    model: nn.Module, loader: Iterable, optimiser: torch.optim.Optimizer, amp: str, device: torch.device
) -> SimpleTrainer:
    if amp == "fp16":
        return AMPTrainer(model, loader, optimiser)
    return SimpleTrainer(Autocast(model, device) if amp == "bf16" else model, loader, optimiser)


def _distributed(model: SCORE, device: torch.device) -> nn.Module:
    if comm.get_world_size() == 1:
        return model
    # The dilation's logits get no gradient once its size is chosen.
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False, find_unused_parameters=True)


def _show(folder: Path, dataset: str) -> None:
    """Hand pictures to TensorBoard."""
    for path in sorted(folder.glob("*.jpg")):
        get_event_storage().put_image(f"{dataset}/{path.stem}", np.asarray(Image.open(path)).transpose(2, 0, 1))
