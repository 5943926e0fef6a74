"""Training on transformers' Trainer: what is trained is its model, the backbone stays outside."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from accelerate.data_loader import BatchSamplerShard
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.training_args import ParallelMode

from ltuning import processes
from ltuning.backbones.prefix import TRAINING, announced
from ltuning.config import StoppingOptions
from ltuning.errors import TrainingError
from ltuning.methods.heads import missing_centers
from ltuning.methods.model import Branches, Model
from ltuning.stages import Advance, counting
from ltuning.training.arguments import Run
from ltuning.training.checkpoints import STATE, Tally, check_same_run, newest
from ltuning.training.datasets import LengthGroupedBatches, TokenDataset, runs
from ltuning.training.forecast import Forecast
from ltuning.training.long_texts import score_texts
from ltuning.training.lower_store import LowerStore
from ltuning.training.objectives import Draw, Objective
from ltuning.training.parallel import DividedScorer, add_up, check_launch, check_same, hand_on
from ltuning.training.result import TrainingResult


class TrainingModel(nn.Module):
    """A model with what it needs to compute a loss; only what is trained has parameters here.

    Args:
        model: a classifier.
        objective: what it is trained to do.
        seed: of the draws.
    """

    # Trainer then leaves it to the loss to be a share of the whole step's.
    accepts_loss_kwargs = True

    def __init__(self, model: Model[Any], objective: Objective, seed: int):
        super().__init__()
        self.adapter = model.adapter
        self.model, self.objective, self.seed = model, objective, seed
        self.store: LowerStore | None = None
        self.register_load_state_dict_pre_hook(_in_names_of_today)

    def of_step(self, batches: Sequence[dict[str, Any]], step: int) -> list[dict[str, Any]]:
        """The micro-batches of a step, each with its `draw` and as `share` what its loss weighs.

        The draws are made over the whole step: into how many parts it is cut, for micro-batches
        and for processes, does not change them.
        """
        targets = [target for batch in batches for target in batch["targets"]]
        draw, prepared, start = self.draw(targets, step), [], 0
        if weights := [weight for batch in batches for weight in batch.get("weights", ())]:
            draw = draw.weighted(torch.tensor(weights))
        whole = self.objective.share(draw)
        for batch in batches:
            size = len(batch["targets"])
            run = runs(size, self.model.backbone)
            part = draw.part(start + run.start, start + run.stop)
            # A text that stands in for none weighs nothing.
            share = self.objective.share(part) / whole if processes.part(size) else 0.0
            texts: dict[str, Any] = {"batch": batch["batch"], "rows": batch["rows"]}
            if "counts" in batch:
                texts["counts"] = batch["counts"]
            prepared.append({**texts, "draw": part, "share": share})
            start += size
        return prepared

    def draw(self, targets: Sequence[Any], step: int) -> Draw:
        """What a step draws for all its texts, a function of the seed and the step.

        Args:
            targets: of each text, see `Objective.draw`.
            step: number of the optimizer step.
        """
        generator = torch.Generator().manual_seed(_mix(self.seed, step))
        return self.objective.draw(targets, generator)

    def forward(
        self,
        batch: Any,
        rows: Sequence[int],
        draw: Draw,
        counts: Sequence[int] | None = None,
    ) -> Tensor:
        """Mean loss of a batch.

        Args:
            batch: B texts, or all of their windows, one text after the other.
            rows: the place of each among the training texts, or of each window among theirs.
            draw: its part of what the step draws.
            counts: `[B]` how many windows each text has; None = the batch is of texts.
        """
        device = self.model.backbone.device
        batch = batch.to(device)
        side = self.model.label_side()
        branches = None if draw.branches is None else draw.branches.to(device)
        if counts is None:
            return self.objective.loss(self._scores(batch, rows, side, branches), draw)

        def score(windows: Tensor, branches: Branches | None) -> Tensor:
            chosen = [rows[window] for window in windows.tolist()]
            return self._scores(batch.select(windows), chosen, side, branches)

        return self.objective.loss(score_texts(score, counts, branches, device), draw)

    def _scores(
        self, batch: Any, rows: Sequence[int], side: Tensor | None, branches: Branches | None
    ) -> Tensor:
        lower = None if self.store is None else self.store.lower(rows, batch)
        return self.model.score(batch, side, branches, lower)


def _in_names_of_today(_: nn.Module, state: dict[str, object], *__: object) -> None:
    """Checkpoints of taggers had another name for what is trained, and centred heads no scale."""
    for name in [name for name in state if name.startswith("tuned.")]:
        state[f"adapter.{name.removeprefix('tuned.')}"] = state.pop(name)
    state.update(missing_centers(state, "adapter.head."))


class HeldOut(Protocol):
    """What is validated on, and the figures that are computed there.

    Attributes:
        scorer_class: what `figures` is given, made of the model and of the most branches at a time.
    """

    scorer_class: ClassVar[type[Any]]

    @property
    def targets(self) -> Sequence[object]:
        """Of each text what is true of it."""

    def figures(self, scorer: Any, progress: Advance | None = None) -> dict[str, float]:
        """Figures by name, `loss` among them."""


class AdapterTrainer(Trainer):
    """Trainer whose loss, sampler and evaluation are ours; loop, resume and logging are its own.

    Of several processes each computes its part of every batch, and gradients are added up: with the
    same options they come to the weights of one process.
    """

    def __init__(
        self, module: TrainingModel, data: TokenDataset, validation: HeldOut | None, run: Run
    ):
        super().__init__(
            model=module,
            args=run.arguments,
            train_dataset=data,
            # It is asked for where there are evaluations; ours read `validation`.
            eval_dataset=None if validation is None else data,
            data_collator=partial(data.collate, module.model.backbone),
            callbacks=[*run.callbacks, *early_stopping(run.stopping, validation)],
        )
        self._module, self._data, self._run = module, data, run
        self._validation = validation
        self._losses_of_step: list[Tensor] = []
        if self.args.parallel_mode == ParallelMode.DISTRIBUTED:
            # Wrapped for autocast alone, now, so that it is not wrapped for more.
            self.accelerator.prepare_model(module, evaluation_mode=True)
        self.add_callback(Tally(_identity(module, data)))
        num_validation = 0 if validation is None else len(validation.targets)
        self.add_callback(Forecast(len(data), num_validation))
        self.add_callback(_AtBegin(self._begin))

    def get_batch_samples(self, *given: Any, **named: Any) -> tuple[list[dict[str, Any]], Any]:
        """The micro-batches of a step, each with its share of the step's loss.

        A loss is a mean over the words, texts or branches of a micro-batch. Weighted by how many
        they are, micro-batches make the loss that one batch of all their texts has.
        """
        batches, _ = super().get_batch_samples(*given, **named)
        # That there is a number tells Trainer that it need not divide.
        return self._module.of_step(batches, self.state.global_step), len(batches)

    def compute_loss(self, model: nn.Module, inputs: dict[str, object], **_: object) -> Tensor:  # type: ignore[override]
        """A micro-batch's part of the loss of its step; NaN or infinity ends the run."""
        share = inputs.pop("share")
        if not inputs["rows"]:  # other processes have all of its texts
            return torch.zeros((), device=self.args.device, requires_grad=True)
        loss = model(**inputs) * share
        if processes.number() == 1:
            self._count(loss)
        return loss

    def training_step(self, *given: Any, **named: Any) -> Tensor:
        """A micro-batch's gradients; those of all processes, where it is the last of its step."""
        if processes.number() == 1:
            return super().training_step(*given, **named)
        if not self._losses_of_step:
            # What dropout draws is another in each process, and that of this step when resumed.
            own = self.state.global_step * processes.number() + processes.rank()
            torch.manual_seed(_mix(self.args.seed, own))
        loss = super().training_step(*given, **named)
        self._losses_of_step.append(loss)
        if self.accelerator.sync_gradients:
            whole = torch.stack(self._losses_of_step).sum()
            self._losses_of_step = []
            trained = [weight for weight in self._module.parameters() if weight.requires_grad]
            self._count(add_up(trained, whole))
        return loss

    def _count(self, loss: Tensor) -> None:
        # On a GPU to look at the loss is to wait for it. One that is not finite leaves weights
        # that are not, and every later loss shows it.
        looked_at = self.state.global_step % max(1, self.state.logging_steps) == 0
        if (loss.device.type == "cpu" or looked_at) and not torch.isfinite(loss):
            raise TrainingError(
                f"expected a finite loss, got {float(loss.detach())} at step "
                f"{self.state.global_step}; lower training.learning_rate or check the data"
            )
        self.tally.add(loss)

    def evaluate(
        self, *_: object, metric_key_prefix: str = "eval", **__: object
    ) -> dict[str, float]:
        """Figures on the validation texts, each scored against every label."""
        if self._validation is None:
            return {}
        self._module.eval()
        model, number = self._module.model, len(self._validation.targets)
        scorer = self._validation.scorer_class(model, self._run.max_branches)
        if processes.number() > 1 and not model.backbone.is_sharded:
            scorer, number = DividedScorer(scorer), len(processes.part(number))
        with counting("validating", number) as advance:
            figures = self._validation.figures(scorer, advance)
        # By them a run ends and weights are kept: in every process alike, whatever rounds there.
        figures = processes.of_main(figures)
        named = {f"{metric_key_prefix}_{name}": value for name, value in figures.items()}
        self.log(named)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, named)
        return named

    @property
    def tally(self) -> Tally:
        """What is counted; a resumed run has another one than it began with."""
        return next(one for one in self.callback_handler.callbacks if isinstance(one, Tally))

    def log(self, logs: dict[str, float], *rest: Any, **named: Any) -> None:
        """Log figures; losses and times are those of the whole run."""
        if "loss" in logs:
            logs["loss"] = self.tally.log(self.state.global_step)
        if "train_runtime" in logs:
            if processes.number() > 1:  # Trainer knows the parts of this process
                logs["train_loss"] = self.tally.mean(self.state.global_step)
            self._count_earlier_parts(logs)
        super().log(logs, *rest, **named)

    def _count_earlier_parts(self, logs: dict[str, float]) -> None:
        tally, steps, here = self.tally, self.state.global_step, logs["train_runtime"]
        if not tally.seconds:
            return
        whole = tally.seconds + here
        texts = logs["train_samples_per_second"] / logs["train_steps_per_second"]
        logs["train_runtime"] = whole
        logs["train_steps_per_second"] = steps / whole
        logs["train_samples_per_second"] = texts * steps / whole
        logs["train_loss"] = tally.mean(steps)

    def is_over(self, checkpoint: Path) -> bool:
        """Whether a run had come to its end where a checkpoint was written.

        Trainer would do one step more where that is not the end of an epoch, and where patience
        was at its end an epoch.
        """
        state: Any = TrainerState.load_from_json(str(checkpoint / STATE))
        found = state.stateful_callbacks.get(EarlyStoppingCallback.__name__, [])
        has_stopped = any(
            one["attributes"]["early_stopping_patience_counter"]
            >= one["args"]["early_stopping_patience"]
            for one in (found if isinstance(found, list) else [found])
        )
        return has_stopped or state.global_step >= self._last_step()

    def _last_step(self) -> int:
        if self.args.max_steps > 0:
            return self.args.max_steps
        batches = len(self.get_train_dataloader())
        steps = max(1, math.ceil(batches / self.args.gradient_accumulation_steps))
        return math.ceil(self.args.num_train_epochs * steps)

    def take(self, checkpoint: Path) -> None:
        """Take up what a run that is over left in its last checkpoint."""
        self._load_from_checkpoint(str(checkpoint))
        self.state = TrainerState.load_from_json(str(checkpoint / STATE))
        kept: Any = self.state.stateful_callbacks
        if counted := kept.get(Tally.__name__):
            self.pop_callback(Tally)
            self.add_callback(Tally(**counted["args"]))
        self._find_best()
        if self.state.best_model_checkpoint is not None:
            self._load_best_model()

    def _begin(self) -> None:
        """Before the first step, as part of the run and of its time."""
        processes.of_main(None)  # From here on the folder of its run is there.
        self._find_best()
        if self._run.cache_size and self._module.model.lower_layers and self._sees_texts_again():
            self._keep_lower()

    def _keep_lower(self) -> None:
        """Run the layers below the prefix once for each text, and keep what they make of it."""
        model = self._module.model
        with self.accelerator.autocast():
            self._module.store = LowerStore.fill(
                model.backbone,
                self._data.tokens,
                model.lower_layers,
                room=model.length,
                limit=self._run.cache_size,
                batch_size=self._run.at_once,
                folder=Path(str(self.args.output_dir)),
            )

    def _sees_texts_again(self) -> bool:
        arguments = self.args
        if arguments.max_steps <= 0:
            return arguments.num_train_epochs > 1
        batch = self.get_total_train_batch_size(arguments)
        return arguments.max_steps * batch > len(self._data)

    def get_total_train_batch_size(self, args: TrainingArguments) -> int:
        """Texts in a step of all processes."""
        return args.train_batch_size * args.gradient_accumulation_steps

    def get_train_dataloader(self) -> DataLoader:
        """Whole batches in every process, which takes its part where they are collated."""
        loader = super().get_train_dataloader()
        shard: Any = loader.batch_sampler
        if isinstance(shard, BatchSamplerShard):
            # accelerate would give the processes batches in turn, and fill the last one up.
            shard.num_processes, shard.process_index, shard.even_batches = 1, 0, False
            shard.sampler = shard.batch_sampler.sampler  # whose epoch a resumed run sets
        return loader

    def _save_rng_state(self, output_dir: str) -> None:
        """Nothing of the other processes: what they draw is a function of the step."""
        if self.args.should_save:
            super()._save_rng_state(output_dir)

    def _find_best(self) -> None:
        """The best weights so far, where the run's folder is now."""
        step = self.state.best_global_step
        if step is None or not self.args.load_best_model_at_end:
            return
        found = Path(str(self.args.output_dir)) / f"checkpoint-{step}"
        if not found.is_dir():
            raise TrainingError(
                f"expected the checkpoint whose weights were the best so far in '{found}', got "
                "none; bring it back, or train without resume"
            )
        self.state.best_model_checkpoint = str(found)

    def batches(self) -> LengthGroupedBatches:
        """The order of the training texts."""
        size = self.args.train_batch_size
        return LengthGroupedBatches(self._data.lengths, size, self.args.seed)

    def _get_train_sampler(self, train_dataset: object = None) -> Sampler[int]:
        return self.batches()


def train(
    model: Model[Any],
    objective: Objective,
    data: TokenDataset,
    validation: HeldOut | None,
    run: Run,
) -> TrainingResult:
    """Train a model in place.

    Raises:
        TrainingError: a loss that is not finite, or no checkpoint to resume from; of several
            processes one that is gone.
        DataError: other texts in another process.
    """
    module = TrainingModel(model, objective, run.arguments.seed)
    if processes.number() > 1:
        check_launch(run.arguments)
        check_same(data)
        hand_on(module)
    trainer = AdapterTrainer(module, data, validation, run)
    trainer.remove_callback(PrinterCallback)
    if not len(trainer.get_train_dataloader()):
        raise TrainingError(
            f"expected texts for one batch of {run.arguments.train_batch_size} or more, got fewer, "
            "which training.dataloader_drop_last drops; give more, or leave it out"
        )
    seconds = _run(trainer, run)
    if processes.number() > 1:
        hand_on(module)  # who sees no checkpoints has no best weights
    if not all(bool(weight.isfinite().all()) for weight in module.parameters()):
        raise TrainingError(
            "expected finite weights at the end of training, got NaN or infinity; lower "
            "training.learning_rate or check the data"
        )
    history = trainer.state.log_history
    return TrainingResult(
        steps=trainer.state.global_step,
        seconds=seconds,
        padding_share=trainer.batches().padding_share(data.counts),
        history=history,
        best=_best(history, trainer.state.best_global_step),
    )


def early_stopping(stopping: StoppingOptions, validation: object) -> list[TrainerCallback]:
    """What ends a run, where validation and options say so."""
    if validation is None or not isinstance(stopping.patience, int):
        return []
    return [EarlyStoppingCallback(early_stopping_patience=stopping.patience)]


def _run(trainer: AdapterTrainer, run: Run) -> float:
    """Train to the end; the seconds that it took, those before an interruption included."""
    checkpoint = newest(Path(str(trainer.args.output_dir))) if run.resume else None
    if checkpoint is not None:
        check_same_run(checkpoint, trainer.tally.identity)
    if checkpoint is not None and trainer.is_over(checkpoint):
        trainer.take(checkpoint)
        return trainer.tally.seconds
    if checkpoint is not None:
        trainer.args.eval_on_start = False  # its start is behind it
    with announced(TRAINING, run.layers):
        outcome = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return float(outcome.metrics["train_runtime"])


def _identity(module: TrainingModel, data: TokenDataset[Any]) -> str:
    """Of the texts and label texts that are trained on, and of the weights that are trained."""
    labels, trained = module.model.labels, module.named_parameters()
    shapes = [(name, tuple(weight.shape)) for name, weight in trained if weight.requires_grad]
    texts = None if labels is None else (labels.ids.tolist(), labels.mask.tolist())
    return hashlib.sha256(repr((data.digest, texts, shapes)).encode()).hexdigest()


class _AtBegin(TrainerCallback):
    """Does what is to be done before the first step."""

    def __init__(self, do: Callable[[], None]):
        self._do = do

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """The run begins."""
        self._do()


def _best(history: list[dict[str, float]], step: int | None) -> dict[str, float]:
    for row in history:
        if "eval_loss" in row and (step is None or row["step"] == step):
            return {
                name.removeprefix("eval_"): value
                for name, value in row.items()
                if name.startswith("eval_")
            }
    return {}


def _mix(seed: int, step: int) -> int:
    """One seed out of two numbers, without the patterns of their sum."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]) >> 1
