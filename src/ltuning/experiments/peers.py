"""Other methods in the same grid, each by its own library.

============ =====================================================================================
peft-prefix  PEFT's prefix tuning
peft-prompt  PEFT's prompt tuning
peft-ptuning PEFT's P-tuning: a prompt that an encoder makes
peft-lora    PEFT's LoRA beside queries and values
logistic     scikit-learn's logistic regression on the frozen mean states: a linear probe that is
             fitted to its end
tfidf        scikit-learn's logistic regression on TF-IDF of words and pairs of words; no backbone
cosine       the label text whose mean state is nearest to the text's; nothing is trained
setfit       SetFit: contrastive fine-tuning of every weight, then logistic regression; for the
             grid's budget, or with `iterations` for its own
============ =====================================================================================

PEFT's methods train `AutoModelForSequenceClassification` in transformers' Trainer with what
ltuning's trainer has: linear schedule, a tenth of warm-up, no weight decay, gradients clipped at
1, batches grouped by length with its sampler, the best weights on the validation texts kept. A
decoder's padding comes between PEFT's virtual tokens and the text, which PEFT gives no positions
for, so that its answers depend a little on the texts beside a text.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainingArguments, set_seed

from ltuning.backbones.backbone import Backbone
from ltuning.backbones.batch_sizes import by_length
from ltuning.backbones.loading import load_classifier, source_of
from ltuning.calibration import softmax
from ltuning.data.sources import Text
from ltuning.errors import ConfigError, DataError, Problem, TrainingError
from ltuning.experiments.fitting import Clock, Fitted, Job, history_of, is_better
from ltuning.labels import Labels
from ltuning.locks import temporary_folder
from ltuning.methods.zero_shot import zero_shot
from ltuning.metrics import best_thresholds
from ltuning.scoring import Scorer, mean_states
from ltuning.tasks.table import TASKS
from ltuning.texts import columns_of
from ltuning.training.datasets import LengthGroupedBatches

# Texts at a time outside training; more would be padded to the length of the longest.
_AT_A_TIME = 64
# A text's share of the positions that virtual tokens leave.
_LEAST_TEXT = 16
_LOGISTIC_STEPS = 1000
# In a step, by SetFit's own default.
_SETFIT_PAIRS = 16

logger = logging.getLogger("ltuning")


@dataclass(frozen=True)
class Peer:
    """One row of the table of peers.

    Attributes:
        fit: trains it.
        rate: its learning rate, of `logistic` and `tfidf` their C; None where nothing is trained.
        options: what may be set, with its default; 0 is what only leaving it out can say.
        reads_labels: whether the label texts change what it does.
        package: what has to be installed; None is nothing more than ltuning itself.
        loads: whether it loads a model of its own, instead of the shared frozen one.
        several: whether it knows several labels of a text, too.
    """

    fit: Callable[[Job, float | None], Fitted]
    rate: float | None
    options: Mapping[str, int] = field(default_factory=dict)
    reads_labels: bool = False
    package: str | None = None
    loads: bool = False
    several: bool = False

    @property
    def tasks(self) -> tuple[str, ...]:
        """Those that it knows."""
        return tuple(
            name
            for name, task in TASKS.items()
            if task.one_of_each or (self.several and not task.of_words)
        )

    @property
    def is_installed(self) -> bool:
        """Whether its library is there."""
        return self.package is None or find_spec(self.package) is not None


def fit_prefix(job: Job, rate: float | None) -> Fitted:
    """PEFT's prefix tuning with its defaults for sequence classification."""
    return _fit_virtual("peft-prefix", "PrefixTuningConfig", job, rate)


def fit_prompt(job: Job, rate: float | None) -> Fitted:
    """PEFT's prompt tuning with its defaults for sequence classification."""
    return _fit_virtual("peft-prompt", "PromptTuningConfig", job, rate)


def fit_ptuning(job: Job, rate: float | None) -> Fitted:
    """PEFT's P-tuning; its encoder is as wide as the backbone."""
    width = job.outline.sizes.hidden
    return _fit_virtual("peft-ptuning", "PromptEncoderConfig", job, rate, encoder_hidden_size=width)


def _fit_virtual(name: str, kind: str, job: Job, rate: float | None, **options: int) -> Fitted:
    import peft

    tokens = _option(name, "num_tokens", job)
    given = {"task_type": peft.TaskType.SEQ_CLS, "num_virtual_tokens": tokens, **options}
    return _fit_peft(job, _rate(name, rate), getattr(peft, kind)(**given), tokens)


def fit_lora(job: Job, rate: float | None) -> Fitted:
    """PEFT's LoRA on queries and values, alpha twice the rank, dropout 0.1."""
    from peft import LoraConfig, TaskType

    rank = _option("peft-lora", "rank", job)
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.1,
        target_modules=list(job.outline.family.lora),
    )
    return _fit_peft(job, _rate("peft-lora", rate), config, 0)


def fit_logistic(job: Job, rate: float | None) -> Fitted:
    """Logistic regression on the frozen mean states; the budget is not used."""
    backbone = job.load()
    return _fit_head("logistic", job, rate, lambda texts, _: _states(backbone, texts).numpy())


def fit_tfidf(job: Job, rate: float | None) -> Fitted:
    """Logistic regression on TF-IDF of one and two words, sublinear in their counts.

    No backbone is loaded and the budget is not used. The texts of a pair are joined by a space, so
    that which of them a word is from is lost.

    Raises:
        DataError: training texts without a word of two letters.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)

    def features(texts: Sequence[Text], is_training: bool) -> Any:
        joined = [text if isinstance(text, str) else " ".join(text) for text in texts]
        if not is_training:
            return vectorizer.transform(joined)
        try:
            return vectorizer.fit_transform(joined)
        except ValueError as error:
            raise DataError(
                f"{job.train.origin}: expected words of two letters or more for 'tfidf', got "
                "none; leave it out for this data"
            ) from error

    return _fit_head("tfidf", job, rate, features)


def fit_cosine(job: Job, rate: float | None) -> Fitted:
    """The nearest label text, as `LabelClassifier` guesses before `fit`; no text is trained on."""
    backbone, clock = job.load(), Clock()
    clock.start()
    scorer = Scorer(zero_shot(backbone, Labels.from_any(job.labels)), _AT_A_TIME)
    clock.stop()

    def probabilities(texts: Sequence[Text]) -> np.ndarray:
        return softmax(scorer.score(texts).astype(np.float64))

    return Fitted(probabilities, 0, clock.seconds, [])


def fit_setfit(job: Job, rate: float | None) -> Fitted:
    """SetFit for the budget's steps; a pair is two passes, so half the batch are pairs.

    With `iterations` it is trained its own way instead: 16 pairs in a step, and one epoch over so
    many pairs of a label and as many of two, for each training text.
    """
    import setfit
    from datasets import Dataset, disable_progress_bars

    if any(isinstance(text, tuple) for text in job.train.texts[:1]):
        raise DataError("expected single texts for SetFit, got pairs; leave it out for this data")
    disable_progress_bars()
    setfit.logging.set_verbosity_error()
    assert job.train.labels is not None
    rows = {
        "text": list(job.train.texts),
        "label": [job.names.index(label) for label in job.train.labels],
    }
    pairs, steps, iterations = _setfit_budget(job)
    job.release()
    model = setfit.SetFitModel.from_pretrained(source_of(job.backbone))
    clock = Clock()
    clock.start()
    with temporary_folder() as folder:
        arguments = setfit.TrainingArguments(
            output_dir=str(folder),
            batch_size=pairs,
            num_epochs=1,
            # SetFit lists no more pairs than so many steps need; without it, all that there are.
            max_steps=steps,
            num_iterations=iterations,
            body_learning_rate=_rate("setfit", rate),
            save_strategy="no",
            report_to="none",
            show_progress_bar=False,
            seed=job.seed,
        )
        trainer = setfit.Trainer(model, arguments, train_dataset=Dataset.from_dict(rows))
        for callback in (PrinterCallback, ProgressCallback):
            trainer.st_trainer.remove_callback(callback)
        trainer.train()
        pairs = min(pairs, len(trainer.st_trainer.train_dataset))
    clock.stop()
    columns = [int(place) for place in model.model_head.classes_]

    def probabilities(texts: Sequence[Text]) -> np.ndarray:
        found = np.zeros((len(texts), len(job.names)))
        given = model.predict_proba(list(texts), batch_size=_AT_A_TIME, as_numpy=True)
        found[:, columns] = given
        return found

    head = model.model_head
    body = sum(weight.numel() for weight in model.model_body.parameters())
    count = body + head.coef_.size + head.intercept_.size
    return Fitted(probabilities, count, clock.seconds, [], 2 * pairs, steps)


PEERS: dict[str, Peer] = {
    "peft-prefix": Peer(fit_prefix, 1e-1, {"num_tokens": 10}, loads=True),
    "peft-prompt": Peer(fit_prompt, 1.0, {"num_tokens": 10}, loads=True),
    "peft-ptuning": Peer(fit_ptuning, 1e-3, {"num_tokens": 10}, loads=True),
    "peft-lora": Peer(fit_lora, 3e-3, {"rank": 8}, loads=True),
    "logistic": Peer(fit_logistic, 10.0, several=True),
    "tfidf": Peer(fit_tfidf, 10.0, several=True),
    "cosine": Peer(fit_cosine, None, reads_labels=True),
    "setfit": Peer(fit_setfit, 2e-5, {"iterations": 0}, package="setfit", loads=True),
}


def _fit_head(
    name: str, job: Job, rate: float | None, features: Callable[[Sequence[Text], bool], object]
) -> Fitted:
    """Logistic regression, fitted to its end; where several labels may apply, one for each.

    Args:
        name: of the peer, whose rate is C.
        job: what on.
        rate: C; None is the peer's own.
        features: `[N, F]` of N texts, and whether these are the training texts.
    """
    from sklearn.linear_model import LogisticRegression

    clock = Clock()
    clock.start()
    head = LogisticRegression(C=_rate(name, rate), max_iter=_LOGISTIC_STEPS, random_state=job.seed)
    if not job.task.one_of_each:
        return _fit_heads(name, job, head, features, clock)
    head.fit(features(job.train.texts, True), job.train.labels)
    clock.stop()
    _warn_of_no_end(name, [head])
    columns = [job.names.index(name) for name in head.classes_]

    def probabilities(texts: Sequence[Text]) -> np.ndarray:
        found = np.zeros((len(texts), len(job.names)))
        found[:, columns] = head.predict_proba(features(texts, False))
        return found

    return Fitted(probabilities, head.coef_.size + head.intercept_.size, clock.seconds, [])


def _fit_heads(
    name: str,
    job: Job,
    head: Any,
    features: Callable[[Sequence[Text], bool], Any],
    clock: Clock,
) -> Fitted:
    """A head for each label, and its threshold by the validation texts."""
    from sklearn.multiclass import OneVsRestClassifier

    heads = OneVsRestClassifier(head)
    heads.fit(features(job.train.texts, True), job.task.truth(job.train, job.names))
    clock.stop()
    # A label that applies to every training text or to none has that as its answer, and no head.
    fitted = [one for one in heads.estimators_ if isinstance(one, type(head))]
    _warn_of_no_end(name, fitted)

    def probabilities(texts: Sequence[Text]) -> np.ndarray:
        found: np.ndarray = heads.predict_proba(features(texts, False))
        return found

    truth = job.task.truth(job.validation, job.names)
    thresholds = best_thresholds(probabilities(job.validation.texts), truth)
    count = sum(one.coef_.size + one.intercept_.size for one in fitted)
    return Fitted(probabilities, count, clock.seconds, [], thresholds=thresholds)


def _warn_of_no_end(name: str, heads: Sequence[Any]) -> None:
    if any(head.n_iter_.max() >= _LOGISTIC_STEPS for head in heads):
        logger.warning("%s: not at its end after %d iterations", name, _LOGISTIC_STEPS)


def _setfit_budget(job: Job) -> tuple[int, int, int | None]:
    """Pairs in a step, steps, and SetFit's `num_iterations`."""
    iterations = _option("setfit", "iterations", job)
    if iterations:
        every = 2 * iterations * len(job.train)
        return _SETFIT_PAIRS, -(-every // _SETFIT_PAIRS), iterations
    pairs = job.budget.batch // 2
    if not pairs:
        message = "expected 2 or more, the passes of a pair, got 1; set a larger batch"
        raise ConfigError([Problem("budget.batch", message)])
    return pairs, job.budget.steps, None


def _states(backbone: Backbone, texts: Sequence[Text]) -> Tensor:
    """`[N, H]` mean of the frozen model's last states over each text's tokens."""
    return mean_states(backbone, backbone.tokenize(list(texts)), _AT_A_TIME).cpu()


def _option(name: str, option: str, job: Job) -> int:
    return int(job.options.get(option, PEERS[name].options[option]))


def _rate(name: str, rate: float | None) -> float:
    rate = PEERS[name].rate if rate is None else rate
    assert rate is not None
    return rate


def _fit_peft(job: Job, rate: float, config: Any, room: int) -> Fitted:
    """Train transformers' classifier with PEFT around it.

    Args:
        job: what on.
        rate: learning rate.
        config: of PEFT.
        room: positions that its virtual tokens take.
    """
    from peft import get_peft_model

    longest = job.outline.max_length - room
    if longest < _LEAST_TEXT:
        raise DataError(
            f"expected room for {_LEAST_TEXT} tokens of text beside {room} virtual tokens, got "
            f"{longest}; set fewer with num_tokens"
        )
    job.release()
    set_seed(job.seed)
    plain, tokenizer = load_classifier(job.backbone, len(job.names))
    dtype = plain.dtype
    model = get_peft_model(plain, config)
    for weight in model.parameters():
        if weight.requires_grad:  # small steps are lost in half precision
            weight.data = weight.data.float()
    texts = _Texts(model, tokenizer, longest, dtype)
    assert job.train.labels is not None
    clock = Clock()
    clock.start()
    rows = [
        {**row, "labels": job.names.index(label)}
        for row, label in zip(texts.tokenize(job.train.texts), job.train.labels, strict=True)
    ]

    def figures() -> dict[str, float]:
        return job.on_validation(texts.probabilities(job.validation.texts))

    with temporary_folder() as folder:
        trainer = _BestKept(
            model=model,
            args=_arguments(job, rate, str(folder), plain.device.type == "cpu", dtype),
            train_dataset=rows,
            eval_dataset=rows,  # what Trainer asks for; `figures` has its own
            data_collator=texts.collate,
            callbacks=[clock],
            lengths=[len(row["input_ids"]) for row in rows],
            figures=figures,
            job=job,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        trainer.restore_best()
    clock.stop()
    count = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    history = history_of(trainer.state.log_history, clock, job.task)
    in_a_step = min(job.budget.batch, len(rows))
    return Fitted(texts.probabilities, count, clock.seconds, history, in_a_step)


def _arguments(
    job: Job, rate: float, folder: str, on_cpu: bool, dtype: torch.dtype
) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=folder,
        max_steps=job.budget.steps,
        per_device_train_batch_size=job.budget.batch,
        learning_rate=rate,
        lr_scheduler_type="linear",
        warmup_steps=0.1,
        weight_decay=0.0,
        max_grad_norm=1.0,
        eval_strategy="steps",
        eval_steps=job.eval_steps,
        save_strategy="no",
        logging_steps=10,
        logging_nan_inf_filter=False,  # as ltuning's trainer: no waiting for the GPU in each step
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=on_cpu,
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        seed=job.seed,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


class _Texts:
    """Texts as transformers' own classifier reads them."""

    def __init__(self, model: Any, tokenizer: Any, longest: int, dtype: torch.dtype):
        self.model = model
        self.tokenizer = tokenizer
        self.longest = longest
        self.dtype = dtype

    def tokenize(self, texts: Sequence[Text]) -> list[dict[str, Any]]:
        """Token ids of each text or pair; what does not fit beside virtual tokens is cut off."""
        made = self.tokenizer(*columns_of(texts), truncation=True, max_length=self.longest)
        return [{name: made[name][row] for name in made} for row in range(len(texts))]

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """A batch as long as its longest text."""
        inputs = [{name: row[name] for name in row if name != "labels"} for row in rows]
        with warnings.catch_warnings():
            # It advises to tokenize and pad in one call, which sorting by length rules out.
            warnings.simplefilter("ignore")
            batch = dict(self.tokenizer.pad(inputs, return_tensors="pt"))
        if "labels" in rows[0]:
            batch["labels"] = torch.tensor([row["labels"] for row in rows])
        return batch

    def probabilities(self, texts: Sequence[Text]) -> np.ndarray:
        """`[N, K]` softmax of the classifier's scores."""
        rows, found = self.tokenize(texts), None
        was_training = self.model.training
        self.model.eval()
        with torch.inference_mode():
            lengths = [len(row["input_ids"]) for row in rows]
            for places in by_length(lengths, _AT_A_TIME, self.model.device):
                batch = self.collate([rows[place] for place in places])
                batch = {name: value.to(self.model.device) for name, value in batch.items()}
                kind, half = self.model.device.type, self.dtype != torch.float32
                with torch.autocast(kind, self.dtype, enabled=half):
                    scores = self.model(**batch).logits.double().cpu().numpy()
                if found is None:
                    found = np.empty((len(texts), scores.shape[1]))
                found[places] = scores
        self.model.train(was_training)
        assert found is not None
        if not np.isfinite(found).all():
            raise TrainingError("expected finite scores, got NaN or infinity; lower learning_rate")
        return softmax(found)


class _BestKept(Trainer):
    """Trainer with ltuning's sampler that remembers its best trainable weights."""

    def __init__(
        self,
        *,
        lengths: Sequence[int],
        figures: Callable[[], Mapping[str, float]],
        job: Job,
        **rest: Any,
    ):
        super().__init__(**rest)
        self._lengths = lengths
        self._figures = figures
        self._metric, self._logged = job.metric, ("loss", *job.task.figures)
        self._best: float | None = None
        self._weights: dict[str, Tensor] = {}

    def evaluate(
        self, *_: object, metric_key_prefix: str = "eval", **__: object
    ) -> dict[str, float]:
        """Figures on the validation texts."""
        found = self._figures()
        named = {f"{metric_key_prefix}_{name}": found[name] for name in self._logged}
        self.log(named)
        if is_better(found[self._metric], self._best, self._metric):
            self._best = found[self._metric]
            self._weights = {name: w.detach().clone() for name, w in self._trained()}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, named)
        return named

    def restore_best(self) -> None:
        """Take back the weights of the best measurement."""
        with torch.no_grad():
            for name, weight in self._trained():
                if name in self._weights:
                    weight.copy_(self._weights[name])

    def _trained(self) -> Iterator[tuple[str, Tensor]]:
        assert self.model is not None
        return ((n, w) for n, w in self.model.named_parameters() if w.requires_grad)

    def _get_train_sampler(self, train_dataset: object = None) -> LengthGroupedBatches:
        return LengthGroupedBatches(self._lengths, self.args.train_batch_size, self.args.seed)
