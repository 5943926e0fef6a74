"""The front door: a frozen language model that classifies texts by what the labels mean."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ltuning.artifacts import card, store
from ltuning.backbones.backbone import Backbone, LabelStates, Text
from ltuning.backbones.loading import BUILTIN
from ltuning.checking import check, configure
from ltuning.config import Config, MethodOptions
from ltuning.errors import (
    ArtifactError,
    BackboneError,
    DataError,
    LabelError,
)
from ltuning.labels import Labels
from ltuning.methods import catalog
from ltuning.methods.adapter import Adapter
from ltuning.methods.starts import free_start
from ltuning.metrics import classification_report, expected_calibration_error, log_loss
from ltuning.scoring import Progress, Scorer
from ltuning.training.plain import LEAST_SAMPLE, SAMPLE, HeldOutScores, choose_shortlist, prepare
from ltuning.training.trainer import (
    CHECKPOINTING,
    TokenDataset,
    TrainingResult,
    Validation,
    softmax,
    train,
    training_arguments,
)

logger = logging.getLogger("ltuning")

# What a text keeps for itself when a prompt shares its positions.
_LEAST_TEXT = 16


@dataclass
class _Fitted:
    """A trained adapter and what it was trained for."""

    labels: Labels
    adapter: Adapter
    states: LabelStates | None
    max_length: int
    num_texts: int = 0


class LabelClassifier:
    """A text classifier on a frozen language model.

    Args:
        backbone: `builtin:minilm` (the default), a hub id, a local folder, or a loaded `Backbone`
            that several classifiers share.
        labels: label names, a mapping of names to label texts (or lists of them), a YAML file, or
            None to take the names from the training labels.
        method: `prefix`, `prompt`, `lt-prefix` or `lt-prompt`.
        recipe: `default`, or `paper` for the published choices.
        seed: of every draw; the same seed gives the same classifier on a CPU.
        epochs: passes over the training texts.
        steps: optimizer steps, instead of epochs.
        options: further options by dotted path, such as `{"method.rank": 32,
            "training.learning_rate": 1e-3}`.
        config: a whole configuration instead of the arguments above.

    Raises:
        ConfigError: every problem of the options at once, before anything is loaded.
        LabelError: labels that cannot be used.
    """

    def __init__(
        self,
        backbone: str | Path | Backbone | None = None,
        labels: Any = None,
        method: str = "lt-prefix",
        *,
        recipe: str = "default",
        seed: int = 0,
        epochs: float | None = None,
        steps: int | None = None,
        options: Mapping[str, Any] | None = None,
        config: Config | None = None,
    ):
        self._backbone = backbone if isinstance(backbone, Backbone) else None
        if config is None:
            given = Labels.from_any(labels).to_dict() if labels is not None else None
            name = backbone.name if isinstance(backbone, Backbone) else backbone
            config = _config(name, given, method, recipe, seed, epochs, steps, options or {})
        else:
            if backbone is not None and not isinstance(backbone, Backbone):
                config = replace(config, backbone=replace(config.backbone, name=str(backbone)))
            check(config)
        self.config = config
        self._fitted: _Fitted | None = None
        self._scorer: Scorer | None = None
        self.result_: TrainingResult | None = None
        self.figures: dict[str, Any] = {}

    @property
    def backbone(self) -> Backbone:
        """The frozen model, loaded when it is first needed."""
        if self._backbone is None:
            self._backbone = Backbone.load(self.config.backbone)
        return self._backbone

    @property
    def labels_(self) -> Labels:
        """The labels of the trained classifier."""
        return self._trained().labels

    @property
    def classes_(self) -> np.ndarray:
        """`[K]` label names, in the order of the columns of `predict_proba`."""
        return np.array(self.labels_.names)

    @property
    def resolved_config(self) -> Config:
        """The configuration of the trained classifier with nothing left to the recipe."""
        method = self._trained().adapter.method
        training = {**catalog.training_defaults(method), **self.config.training}
        return replace(self.config, method=method, training=training)

    @property
    def num_parameters(self) -> int:
        """Trainable parameters of the fitted adapter."""
        return self._trained().adapter.num_parameters

    def fit(
        self,
        texts: Sequence[Text],
        labels: Sequence[str],
        validation: tuple[Sequence[Text], Sequence[str]] | None = None,
        *,
        checkpoints: Path | None = None,
        resume: bool = False,
        callbacks: Sequence[Any] = (),
    ) -> LabelClassifier:
        """Train the adapter; the backbone stays as it is.

        Args:
            texts: training texts, or (text, text) pairs.
            labels: the name of each text's label.
            validation: texts and labels that choose the best weights and stop early.
            checkpoints: folder for checkpoints; None = a temporary one.
            resume: go on from the newest checkpoint there.
            callbacks: transformers' TrainerCallbacks.

        Raises:
            DataError: texts and labels that do not fit each other, empty texts, a validation label
                that training does not know.
            LabelError: a training label that is not among the labels given.
            BackboneError: a label text that is too long.
            TrainingError: a loss that is not finite.
        """
        texts, labels = _checked(texts, labels, self.config.data.empty_texts)
        known = self._label_set(labels)
        held_out = None
        if validation is not None:
            held_out = _checked(*validation, self.config.data.empty_texts)
            _check_validation(held_out[1], labels, known, self.config)
        _check_device(self.backbone)
        fitted = self._build(known, len(texts))
        with tempfile.TemporaryDirectory(prefix="ltuning-") as temporary:
            folder = checkpoints or Path(temporary)
            result, figures = self._train(
                fitted, texts, labels, held_out, folder, resume, callbacks
            )
        # Only now: a run that fails leaves the classifier as it was.
        self._fitted, self._scorer, self.result_ = fitted, None, result
        self.figures = self._run_figures(result, fitted) | figures
        return self

    def predict(self, texts: Sequence[Text], progress: Progress | None = None) -> np.ndarray:
        """The name of the most probable label of each text, `[N]`."""
        return self.classes_[self.scores(texts, progress).argmax(axis=1)]

    def predict_proba(self, texts: Sequence[Text], progress: Progress | None = None) -> np.ndarray:
        """Probabilities `[N, K]`: softmax over the labels' scores."""
        return softmax(self.scores(texts, progress).astype(np.float64))

    def scores(self, texts: Sequence[Text], progress: Progress | None = None) -> np.ndarray:
        """Scores `[N, K]` before the softmax, in the order of the texts and of `classes_`."""
        fitted = self._trained()
        if isinstance(texts, str):
            raise DataError("expected a list of texts, got one text; write [text]")
        if not len(texts):
            return np.empty((0, len(fitted.labels)), dtype=np.float32)
        tokens = self.backbone.tokenize([_text(text) for text in texts], fitted.max_length)
        return self.scorer().score_tokens(tokens, progress)

    def evaluate(
        self, texts: Sequence[Text], labels: Sequence[str], progress: Progress | None = None
    ) -> dict[str, Any]:
        """Figures on labelled texts: accuracy, macro-F1, Matthews, per class, calibration.

        Raises:
            DataError: texts and labels of different number.
            LabelError: a label that the classifier does not know.
        """
        texts, labels = _checked(texts, labels, "keep")
        truth = [self.labels_.index(label) for label in labels]
        probabilities = self.predict_proba(texts, progress)
        predicted = [str(self.classes_[index]) for index in probabilities.argmax(axis=1)]
        report = classification_report(labels, predicted, self.labels_.names)
        report["log_loss"] = log_loss(probabilities, truth)
        report["expected_calibration_error"] = expected_calibration_error(probabilities, truth)
        return report

    def add_labels(self, labels: Any) -> LabelClassifier:
        """Add classes from their texts alone; nothing is trained.

        Args:
            labels: `{"name": "label text"}`, or names.

        Raises:
            LabelError: a plain method, whose head is tied to its classes, or a label that exists.
            BackboneError: a label text that is too long.
        """
        fitted = self._trained()
        if not fitted.adapter.uses_labels:
            raise LabelError(
                f"expected method 'lt-prefix' or 'lt-prompt' for labels after training, got "
                f"'{self.config.method.name}', whose head has one output for each class it was "
                "trained on; train again with the new label, or with a label method"
            )
        extended = fitted.labels.add(labels)
        states = self._encode(extended, fitted.adapter.length, fitted.adapter.method)
        room = self._room(fitted.adapter.method, states.hidden.shape[1])
        max_length = min(fitted.max_length, room)
        self._fitted = replace(fitted, labels=extended, states=states, max_length=max_length)
        self._scorer = None
        return self

    def scorer(self) -> Scorer:
        """The scorer behind `predict`, with its virtual tokens made once."""
        if self._scorer is None:
            self._scorer = self._new_scorer(self._trained())
        return self._scorer

    def _new_scorer(self, fitted: _Fitted) -> Scorer:
        fitted.adapter.eval()
        return Scorer(
            self.backbone,
            fitted.adapter,
            fitted.states,
            self._owners(fitted),
            self.config.backbone.max_branches,
        )

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        overwrite: bool = False,
        files: Mapping[str, str] | None = None,
    ) -> None:
        """Write the artifact: adapter weights, configuration, model card; never the backbone.

        Args:
            folder: where to; refused when it holds something, unless `overwrite`.
            overwrite: replace an earlier artifact.
            files: further text files to put into the folder.

        Raises:
            ArtifactError: the folder cannot be written; what was there is still there.
        """
        fitted = self._trained()
        config = self._artifact_config(fitted)
        tensors = {
            name: weight.detach().cpu().contiguous()
            for name, weight in fitted.adapter.state_dict().items()
        }
        text = card.render(config, self.figures)
        store.save(
            Path(folder), tensors, config, text, overwrite=overwrite, files=dict(files or {})
        )

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        backbone: str | Path | Backbone | None = None,
        device: str = "auto",
        trust_remote_code: bool = False,
    ) -> LabelClassifier:
        """Load an artifact.

        Args:
            folder: what `save_pretrained` or `ltuning train` wrote.
            backbone: where the backbone is now, or a loaded one; None = where it was.
            device: where to run it.
            trust_remote_code: let a backbone's checkpoint run code of its own; what the artifact
                says of it does not count.

        Raises:
            ArtifactError: a missing or changed file, or another backbone than the one trained on.
        """
        tensors, saved = store.load(Path(folder))
        config = Config.from_dict(saved["config"])
        loaded = backbone if isinstance(backbone, Backbone) else None
        if loaded is None:
            name = config.backbone.name if backbone is None else str(backbone)
            options = replace(
                config.backbone, name=name, device=device, trust_remote_code=trust_remote_code
            )
            config = replace(config, backbone=options)
        classifier = cls(loaded, config=config)
        classifier._restore(Path(folder), tensors, saved)
        return classifier

    def _restore(self, folder: Path, tensors: dict[str, Any], saved: dict[str, Any]) -> None:
        expected, got = saved["backbone"]["fingerprint"], self.backbone.fingerprint
        if expected != got:
            raise ArtifactError(
                f"expected the backbone that '{folder}' was trained on, "
                f"'{saved['backbone']['name']}' with fingerprint {expected[:16]}, "
                f"got '{self.backbone.name}' with {got[:16]}; "
                "give the folder or revision of the first one as backbone"
            )
        labels = Labels.from_any(saved["labels"])
        method = MethodOptions(**saved["method"])
        adapter = Adapter(
            self.backbone.sizes, method, length=saved["length"], num_labels=saved["num_labels"]
        )
        adapter.load_state_dict(tensors)
        adapter.to(self.backbone.device)
        states = self._encode(labels, adapter.length, method) if adapter.uses_labels else None
        self._fitted = _Fitted(labels, adapter, states, saved["max_length"])
        self.figures = saved["figures"]

    def _trained(self) -> _Fitted:
        if self._fitted is None:
            raise LabelError(
                "expected a trained classifier, got one that is not fitted; call "
                "fit(texts, labels) or LabelClassifier.from_pretrained(folder)"
            )
        return self._fitted

    def _label_set(self, labels: Sequence[str]) -> Labels:
        if self.config.labels is None:
            return Labels.from_any(sorted(set(labels)))
        known = Labels.from_any(self.config.labels)
        for label in dict.fromkeys(labels):
            known.index(label)
        return known

    def _build(self, labels: Labels, num_texts: int) -> _Fitted:
        backbone = self.backbone
        depth = backbone.sizes.layers
        method = catalog.resolve(self.config.method, backbone.family, depth, num_texts, len(labels))
        is_prefix = catalog.METHODS[method.name].site == "key-values"
        if is_prefix and backbone.prefix_problem is not None:
            raise BackboneError(backbone.prefix_problem)
        uses_labels = catalog.METHODS[method.name].source == "labels"
        states = self._encode(labels, method.num_tokens, method) if uses_labels else None
        length = method.num_tokens or 0
        if states is not None:
            length = max(length, states.hidden.shape[1])
        max_length = self._room(method, length)
        with torch.random.fork_rng():
            torch.manual_seed(self.config.seed)
            start = None
            if states is None:
                generator = torch.Generator().manual_seed(self.config.seed)
                start = free_start(backbone, method, length, labels.flat_texts, generator)
            adapter = Adapter(
                backbone.sizes, method, length=length, num_labels=len(labels), start=start
            )
        return _Fitted(labels, adapter, states, max_length, num_texts)

    def _encode(self, labels: Labels, max_tokens: int | None, method: MethodOptions) -> LabelStates:
        # Maps work token by token, so that a later label may be longer, except for the pooled one
        # and where the text's positions start after the label's room.
        is_tied = method.transform == "pooled" or method.num_tokens is not None
        is_tied = is_tied or self._prefix_spends_positions(method)
        limit = max_tokens if is_tied else None
        starts_there = method.start == "label-kv"
        return self.backbone.encode_labels(labels.flat_texts, limit, key_values=starts_there)

    def _room(self, method: MethodOptions, length: int) -> int:
        backbone = self.backbone
        budget = backbone.position_budget
        is_prompt = catalog.METHODS[method.name].site == "embeddings"
        if budget is None or not (is_prompt or self._prefix_spends_positions(method)):
            return backbone.max_length
        room = min(backbone.max_length, budget - length)
        if room < _LEAST_TEXT:
            raise BackboneError(
                f"expected room for at least {_LEAST_TEXT} tokens of text beside the virtual "
                f"tokens, got {room} ({budget} positions less {length}); use fewer virtual tokens "
                "or shorter label texts"
            )
        return room

    def _prefix_spends_positions(self, method: MethodOptions) -> bool:
        is_prefix = catalog.METHODS[method.name].site == "key-values"
        return is_prefix and self.backbone.family.prefix_spends_positions

    def _owners(self, fitted: _Fitted) -> Sequence[int]:
        return fitted.labels.owners if fitted.states is not None else range(len(fitted.labels))

    def _train(
        self,
        fitted: _Fitted,
        texts: Sequence[Text],
        labels: Sequence[str],
        held_out: tuple[list[Text], list[str]] | None,
        folder: Path,
        resume: bool,
        callbacks: Sequence[Any],
    ) -> tuple[TrainingResult, dict[str, Any]]:
        data = self._tokenized(fitted, texts, labels)
        validation = None
        if held_out is not None:
            tokenized = self._tokenized(fitted, *held_out)
            names = fitted.labels.names
            validation = Validation(tokenized.tokens, tokenized.targets, names)
        fields = {**catalog.training_defaults(fitted.adapter.method), **self.config.training}
        checkpointing = any([bool(fields.pop(name, False)) for name in CHECKPOINTING])
        arguments = training_arguments(
            folder,
            fields,
            self.config.stopping,
            seed=self.config.seed,
            num_texts=len(texts),
            has_validation=validation is not None,
            on_cpu=self.backbone.device.type == "cpu",
        )
        adapter = fitted.adapter.to(self.backbone.device)
        owners = self._owners(fitted)
        plain = prepare(
            self.backbone,
            adapter,
            fitted.states,
            owners,
            data.tokens,
            data.targets,
            self.config.seed,
        )
        result = train(
            self.backbone,
            adapter,
            fitted.states,
            owners,
            data,
            validation,
            arguments,
            self.config.stopping,
            max_branches=self.config.backbone.max_branches,
            cache_size=self.config.backbone.cache_size,
            plain=plain,
            checkpointing=checkpointing,
            resume=resume,
            callbacks=callbacks,
        )
        return result, self._shortlist_figures(fitted, data, validation, plain)

    def _shortlist_figures(
        self,
        fitted: _Fitted,
        data: TokenDataset,
        validation: Validation | None,
        plain: HeldOutScores | None,
    ) -> dict[str, Any]:
        """What the shortlist holds on validation, or on training texts by held-out plain scores."""
        if plain is None:
            return {}
        texts: TokenDataset | Validation
        if validation is not None and len(validation.tokens) >= LEAST_SAMPLE:
            texts, given = validation, None
            generator = torch.Generator().manual_seed(self.config.seed)
            rows = torch.randperm(len(texts.tokens), generator=generator)[:SAMPLE].tolist()
            measured_on = "validation texts"
        else:
            texts, given = data, plain.sample_scores
            rows = plain.sample.tolist()
            measured_on = "training texts that the pass's own score had not seen"
        held = choose_shortlist(
            self._new_scorer(fitted),
            [texts.tokens[row] for row in rows],
            [texts.targets[row] for row in rows],
            given,
        )
        return {"shortlist": {**held, "texts": len(rows), "measured_on": measured_on}}

    def _tokenized(
        self, fitted: _Fitted, texts: Sequence[Text], labels: Sequence[str]
    ) -> TokenDataset:
        tokens = self.backbone.tokenize(list(texts), fitted.max_length)
        return TokenDataset(tokens, [fitted.labels.index(label) for label in labels])

    def _run_figures(self, result: TrainingResult, fitted: _Fitted) -> dict[str, Any]:
        training = {
            "seconds": round(result.seconds, 2),
            "steps": result.steps,
            "texts": fitted.num_texts,
            "trainable_parameters": fitted.adapter.num_parameters,
            "padding_share": round(result.padding_share, 4),
        }
        figures: dict[str, Any] = {"training": training}
        if result.best:
            figures["validation"] = {
                name: value for name, value in result.best.items() if name != "epoch"
            }
        return figures

    def _artifact_config(self, fitted: _Fitted) -> dict[str, Any]:
        backbone = self.backbone
        config = self.config.to_dict()
        # A backbone that was given loaded may compute otherwise than the configuration says.
        config["backbone"]["attention"] = backbone.attention
        return {
            "config": config,
            "backbone": {
                "name": backbone.name,
                "revision": backbone.revision,
                "fingerprint": backbone.fingerprint,
                "family": backbone.family.name,
            },
            "method": asdict(fitted.adapter.method),
            "labels": fitted.labels.to_dict(),
            "length": fitted.adapter.length,
            "num_labels": len(fitted.labels),
            "max_length": fitted.max_length,
            "seed": self.config.seed,
            "versions": versions(),
            "figures": self.figures,
        }


def versions() -> dict[str, str]:
    """Versions of the libraries that a result depends on."""
    return {name: version(name) for name in ("ltuning", "torch", "transformers")}


def _config(
    backbone: str | Path | None,
    labels: dict[str, list[str]] | None,
    method: str,
    recipe: str,
    seed: int,
    epochs: float | None,
    steps: int | None,
    options: Mapping[str, Any],
) -> Config:
    mapping: dict[str, Any] = {
        "backbone": {"name": str(backbone or BUILTIN)},
        "labels": labels,
        "method": {"name": method, "recipe": recipe},
        "seed": seed,
        "training": {},
    }
    if epochs is not None:
        mapping["training"]["num_train_epochs"] = epochs
    if steps is not None:
        mapping["training"]["max_steps"] = steps
    for path, value in options.items():
        section, _, name = path.partition(".")
        if name and isinstance(mapping.setdefault(section, {}), dict):
            mapping[section][name] = value
        else:
            mapping[section] = value
    return configure(mapping)


def _checked(
    texts: Sequence[Text], labels: Sequence[str], empty: str
) -> tuple[list[Text], list[str]]:
    if isinstance(texts, str):
        raise DataError("expected a list of texts, got one text; write [text]")
    if len(texts) != len(labels):
        raise DataError(
            f"expected one label for each text, got {len(texts)} texts and {len(labels)}"
        )
    if not len(texts):
        raise DataError("expected at least one text, got none")
    pairs = [(_text(text), str(label)) for text, label in zip(texts, labels, strict=True)]
    if empty == "keep":
        return [text for text, _ in pairs], [label for _, label in pairs]
    kept = [(text, label) for text, label in pairs if not _is_empty(text)]
    dropped = len(pairs) - len(kept)
    if dropped and empty == "refuse":
        first = next(row for row, (text, _) in enumerate(pairs) if _is_empty(text))
        raise DataError(
            f"expected texts with words in them, got {dropped} empty ones, the first at index "
            f"{first}; remove them or set data.empty_texts=skip"
        )
    if dropped:
        logger.warning("left out %d of %d texts: they are empty", dropped, len(pairs))
    if not kept:
        raise DataError("expected at least one text with words in it, got none")
    return [text for text, _ in kept], [label for _, label in kept]


def _text(text: Any) -> Text:
    if isinstance(text, str):
        return text
    if isinstance(text, (tuple, list)) and len(text) == 2 and all(isinstance(t, str) for t in text):
        return (text[0], text[1])
    raise DataError(f"expected a text or a pair of texts, got {type(text).__name__}: {text!r:.80}")


def _is_empty(text: Text) -> bool:
    return not (text if isinstance(text, str) else "".join(text)).strip()


def _check_device(backbone: Backbone) -> None:
    # transformers' Trainer puts what it trains on the first GPU in sight.
    if backbone.device.type == "cuda" and backbone.device.index not in (None, 0):
        raise BackboneError(
            f"expected the first GPU in sight for training, got {backbone.device}; set "
            f"CUDA_VISIBLE_DEVICES={backbone.device.index} and leave the device out"
        )


def _check_validation(
    held_out: Sequence[str], trained: Sequence[str], labels: Labels, config: Config
) -> None:
    known = set(labels.names)
    # A label method can score a label that it has no training text for, if it was told of it.
    if config.labels is None or catalog.METHODS[config.method.name].source == "free":
        known &= set(trained)
    unknown = sorted(set(held_out) - known)
    if unknown:
        raise DataError(
            "expected validation labels that training has, got "
            f"{', '.join(map(repr, unknown[:5]))} in validation only; "
            "add training texts for them or remove these rows"
        )
