"""What the front doors share: options, the backbone, saving and loading."""

from __future__ import annotations

import random
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    Self,
    TypeVar,
    get_args,
    get_type_hints,
)

import torch

from ltuning import processes
from ltuning.artifacts import card, hub, store
from ltuning.artifacts.opened import Opened, checked, untrained
from ltuning.artifacts.opened import read as read_artifact
from ltuning.backbones.backbone import Backbone
from ltuning.backbones.loading import BUILTIN
from ltuning.config import (
    SHARD,
    TASK_FACTS,
    BackboneOptions,
    Config,
    MethodOptions,
    absolute_path,
    check_training,
)
from ltuning.config.yaml import shown
from ltuning.errors import (
    ArtifactError,
    BackboneError,
    ConfigError,
    NotFittedError,
    Problem,
)
from ltuning.estimators import peft_folder
from ltuning.estimators.parameters import Parameters, SharedBackbone
from ltuning.estimators.run_record import Fitted, artifact_record
from ltuning.locks import temporary_folder
from ltuning.methods import catalog
from ltuning.methods.checks import check, configure, sharding_problems
from ltuning.metrics import Report
from ltuning.scoring import Progress
from ltuning.stages import loading
from ltuning.training.isolation import alone

# What stands on transformers' Trainer is imported where a training begins: the Trainer imports
# peft, datasets and pandas, which a first prediction would wait for.
if TYPE_CHECKING:
    from transformers import TrainerCallback

    from ltuning.training.arguments import Chosen, Run
    from ltuning.training.result import TrainingResult


F = TypeVar("F", bound=Fitted)

# Where the arguments of a front door stand in a configuration.
_PATHS = {
    "backbone": "backbone.name",
    "labels": "labels",
    "method": "method.name",
    "recipe": "method.recipe",
    "seed": "seed",
    "epochs": "training.num_train_epochs",
    "steps": "training.max_steps",
    "class_weight": "data.class_weight",
    "oos_label": "data.oos_label",
}
# What `fit` itself reads of the options of data.
_DATA_READ = ("data.empty_texts", "data.class_weight", "data.long_texts", "data.oos_label")
# Options of a backbone that nothing can change once it is loaded, and that load it again.
_OF_LOADED = (
    "name", "gguf_file", "revision", "dtype", "quantize", "attention", "start_token", "max_length",
)  # fmt: skip


class Front(Parameters, ABC, Generic[F]):
    """A front door of the library.

    Attributes:
        task: what is predicted, as options call it.
        default_method: the method of who names none.
    """

    task: ClassVar[str]
    default_method: ClassVar[str]

    def __init__(
        self,
        backbone: str | Path | Backbone | None = None,
        labels: object = None,
        method: str | None = None,
        *,
        recipe: str | None = None,
        seed: int | None = None,
        epochs: float | None = None,
        steps: int | None = None,
        class_weight: Mapping[Any, float] | str | None = None,
        oos_label: str | None = None,
        options: Mapping[str, object] | None = None,
        config: Config | None = None,
    ):
        """Say what is to be trained; the backbone is loaded when it is first needed.

        Args:
            backbone: `builtin:minilm` (the default), a hub id, a local folder, or a loaded
                `Backbone` that several classifiers share.
            labels: label names, a mapping of names to label texts (or lists of them), a YAML file,
                or None to take the names from the training labels. Of `TokenClassifier` the types
                of entities, such as `["person", "place"]`, which have no texts.
            method: `prefix`, `prompt`, `lt-prefix` (the default), `lt-prompt`, `ls-lora`,
                `ls-unmask` (for decoders), `probe` or `full`. Of `LabelClassifier` also `auto`: one
                of these by the number of texts and labels, chosen in `fit`. Of `TokenClassifier`
                one of the last four named, `ls-lora` if not given: the others score a text as a
                whole.
            recipe: `default`, or `paper` for the published choices, where they go with the task.
            seed: of every draw, 0 if not given; the same seed gives the same classifier on a CPU.
            epochs: passes over the training texts.
            steps: optimizer steps, instead of epochs. Without either three epochs or 30,000 texts,
                whichever is less, in 150 steps or more; three epochs or 150 steps of recipe
                `paper`.
            class_weight: what the texts of each label count in training: `balanced`, so that all
                labels count the same in sum, or weights by label, 1 where a label is left out. Of
                `LabelClassifier` only; validation is not weighted.
            oos_label: what is predicted of texts that look like those of no label (out of scope),
                such as `"oos"`: those whose highest score is below that of 95 % of the validation
                texts that have a label. Texts with this label may be trained on, too, and need not
                be. Of `LabelClassifier` only.
            options: further options by dotted path, such as `{"method.rank": 32,
                "training.learning_rate": 1e-3}`.
            config: a whole configuration instead of the arguments above; beside it only a backbone
                is taken, the one that it names.

        Raises:
            ConfigError: every problem of the options at once, before anything is loaded.
            LabelError: labels that cannot be used.
        """
        arguments = {
            "backbone": backbone,
            "labels": labels,
            "method": method,
            "recipe": recipe,
            "seed": seed,
            "epochs": epochs,
            "steps": steps,
            "class_weight": class_weight,
            "oos_label": oos_label,
        }
        _check_kinds(options, config)
        self._given = {**arguments, "options": options, "config": config}
        self._shared = SharedBackbone(backbone if isinstance(backbone, Backbone) else None)
        given = {argument: value for argument, value in arguments.items() if value is not None}
        if isinstance(backbone, Backbone):
            del given["backbone"]
        elif backbone is not None:
            given["backbone"] = absolute_path(str(backbone))
        if config is None:
            config = self._configured(given, options or {})
        else:
            config = self._checked(config, given | ({"options": options} if options else {}))
        if config.task != self.task:
            message = (
                f"expected '{self.task}' for {TASK_FACTS[self.task].door}, got '{config.task}'; "
                f"use {TASK_FACTS[config.task].door}"
            )
            raise ConfigError([Problem("task", message)])
        self.config = config
        self._fitted: F | None = None
        # What a pickle brought, until it is needed.
        self._saved: store.Artifact | None = None
        self.result_: TrainingResult | None = None
        self.figures: dict[str, Any] = {}

    def __repr__(self) -> str:
        """What it is, its backbone, and whether it is trained; loads nothing."""
        state = "not trained"
        if self._fitted is not None:
            state = f"{self.num_parameters:,} trained parameters"
        elif self._saved is not None:
            state = "trained, not loaded yet"
        config = self.config
        return f"<{type(self).__name__} {config.method.name} on {config.backbone.name}, {state}>"

    @abstractmethod
    def fit(
        self,
        inputs: object,
        labels: object,
        validation: tuple[object, object] | None = None,
        *,
        checkpoints: Path | None = None,
        resume: bool = False,
        callbacks: Sequence[TrainerCallback] = (),
        progress: bool | None = None,
    ) -> Self:
        """Train on texts or sentences, and what is true of each."""

    @abstractmethod
    def evaluate(self, inputs: object, labels: object, progress: Progress | None = None) -> Report:
        """Figures on texts or sentences, and what is true of each."""

    @property
    def backbone(self) -> Backbone:
        """The frozen model, loaded when it is first needed."""
        shared, given = self._shared, self._given["backbone"]
        if shared.loaded is None and isinstance(given, Backbone):
            shared.loaded = given  # of a pickle
        if shared.loaded is None:
            with loading(self.config.backbone.name):
                shared.loaded = Backbone.load(self.config.backbone)
        return shared.loaded

    @property
    def resolved_config(self) -> Config:
        """The configuration of the trained classifier with nothing left to the recipe."""
        fitted = self._trained()
        method = fitted.model.method
        causal = self.backbone.family.causal
        defaults = catalog.training_defaults(method, fitted.num_texts, causal=causal)
        training = {**defaults, **self.config.training}
        return replace(self.config, method=method, training=training)

    @property
    def num_parameters(self) -> int:
        """Trainable parameters of the fitted adapter."""
        return self._trained().model.adapter.num_parameters

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        overwrite: bool = False,
        files: Mapping[str, str] | None = None,
    ) -> None:
        """Write the artifact: adapter weights, configuration, model card; never the backbone.

        Of the backbone it holds what training changed and nothing else: with `method.merge` the
        weights beside which LoRA stood, with method `full` all of them.

        Args:
            folder: where to; refused when it holds something, unless `overwrite`.
            overwrite: replace an earlier artifact.
            files: further text files to put into the folder.

        Raises:
            ArtifactError: the folder cannot be written; what was there is still there.
        """
        fitted = self._trained()
        config = self._record(fitted)
        adapter = fitted.model.adapter
        store.save(
            Path(folder),
            adapter.tensors(),
            config,
            card.render(config, self.figures),
            overwrite=overwrite,
            files=dict(files or {}),
            parts=self._files(fitted),
        )

    def save_peft(self, folder: str | Path) -> None:
        """Write a folder that transformers and PEFT alone load, with the same scores.

        It holds LoRA and the head (in `modules_to_save`), the configuration of the backbone with
        the names of the outputs, and the tokenizer. Of texts that is method `ls-lora` with
        `method.bias=false` and `method.pooling=last` on a decoder, for
        `AutoModelForSequenceClassification`; of words `ls-lora` on any backbone, for
        `AutoModelForTokenClassification`.

        Args:
            folder: where to; refused when it holds something.

        Raises:
            ArtifactError: a classifier that transformers' own does not compute; says why. A folder
                that cannot be written.
            BackboneError: a model that transformers has no such classifier of.
        """
        fitted = self._trained()
        facts = TASK_FACTS[self.task]
        peft_folder.write(folder, fitted.model, self._outputs(fitted), facts)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Push the artifact to the Hugging Face hub, in one commit; `from_pretrained` loads it.

        Args:
            repo_id: `user/name`; made if it is not there.
            private: whether a repository that is made is private; None = as the hub has it.
            token: for the hub; None = that of `hf auth login` or HF_TOKEN.
            commit_message: of the commit.
            revision: branch; made if it is not there; None = the main one.
            create_pr: open a pull request instead.

        Returns:
            The address of the commit, or of the pull request.

        Raises:
            ArtifactError: no right to push there, no connection, or a repository that is public
                and was to be private.
            ConfigError: `create_pr` beside a revision.
        """
        with temporary_folder() as folder:
            self.save_pretrained(folder / "classifier")
            return hub.push(
                folder / "classifier",
                repo_id,
                private=private,
                token=token,
                commit_message=commit_message,
                revision=revision,
                create_pr=create_pr,
            )

    def _record(self, fitted: F) -> dict[str, Any]:
        """What an artifact says of the trained classifier."""
        record = artifact_record(self.config, self.backbone, fitted, self.figures)
        return {"task": self.task, **record, **self._own_config(fitted)}

    def __getstate__(self) -> dict[str, Any]:
        """What a pickle or a copy has: what an artifact holds, nothing of the backbone."""
        saved = self._saved
        if (fitted := self._fitted) is not None:
            adapter = fitted.model.adapter
            record, files = self._record(fitted), self._files(fitted)
            saved = store.unwritten(adapter.tensors(), record, files)
        state = {**vars(self), "_fitted": None, "_saved": saved}
        if self.config.backbone.device == SHARD:  # it may go where there is one process
            state["config"] = _undivided(self.config)
            state["_given"] = {**self._given, **_undivided_arguments(self._given)}
        return state

    def __sklearn_is_fitted__(self) -> bool:
        """Whether it is trained."""
        return self._fitted is not None or self._saved is not None

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path | Opened,
        *,
        backbone: str | Path | Backbone | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        device: str = "auto",
        trust_remote_code: bool = False,
    ) -> Self:
        """Load an artifact.

        Args:
            folder: what `save_pretrained` or `ltuning train` wrote, by its path or opened before;
                or `user/name` of the Hugging Face hub, where there is no such path.
            backbone: where the backbone is now, or a loaded one; None = where it was.
            revision: commit, tag or branch of the classifier, where that is on the hub; else of
                the backbone on the hub, None = the one trained on, where `backbone` names no other
                place.
            token: for a classifier on the hub; None = that of `hf auth login` or HF_TOKEN.
            device: where to run it.
            trust_remote_code: let a backbone's checkpoint run code of its own; what the artifact
                says of it does not count.

        Raises:
            ArtifactError: a missing or changed file, another backbone than the one trained on, or
                an artifact of another task; nothing on the hub that may be read.
            ConfigError: `revision` or `device` beside a loaded backbone.
        """
        if not isinstance(folder, Opened) and hub.is_hub_id(folder):
            folder, revision = read_artifact(folder, revision=revision, token=token), None
        opened = folder if isinstance(folder, Opened) else read_artifact(folder)
        config, folder = opened.config, opened.folder
        if config.task != cls.task:
            raise ArtifactError(
                f"expected an artifact of task '{cls.task}' in '{folder}', got one of task "
                f"'{config.task}'; load it with {TASK_FACTS[config.task].door}"
            )
        if isinstance(backbone, Backbone):
            _refuse_beside_loaded(revision, device)
            default = BackboneOptions()
            as_loaded = {name: getattr(default, name) for name in (*_OF_LOADED, "device")}
            options = replace(config.backbone, **(as_loaded | loaded_options(backbone)))
        else:
            placed = config.backbone if backbone is None else moved(config.backbone, backbone)
            options = replace(
                placed,
                revision=revision or placed.revision,
                device=device,
                trust_remote_code=trust_remote_code,
            )
        config = replace(config, backbone=options)
        # How it was trained is on record, and no longer checked: it was taken then.
        on_record = {name: getattr(config, name) for name in ("data", "stopping", "training")}
        given = backbone if isinstance(backbone, Backbone) else None
        door = cls(given, config=untrained(config))
        door.config = door._given["config"] = replace(door.config, **on_record)
        door._check_backbone(folder, opened.fields)
        opened.check_fits(door.backbone)
        door._take_up(opened)
        door.figures = dict(opened.fields["figures"])
        return door

    def _configured(self, given: Mapping[str, object], options: Mapping[str, object]) -> Config:
        """The configuration of what was given without one."""
        if "labels" in given:
            texts_read = self._reads_texts(given, options)
            given = {**given, "labels": self._read_labels(given["labels"], texts_read)}
        backbone = self._shared.loaded
        flat, problems = _flat_options(options, given, backbone is not None)
        loaded = {} if backbone is None else loaded_options(backbone)
        mapping: dict[str, Any] = {
            "task": self.task,
            "backbone": {"name": BUILTIN, **loaded},
            "method": {"name": self.default_method},
            "training": {},
        }
        arguments = {_PATHS[argument]: value for argument, value in given.items()}
        for path, value in (arguments | flat).items():
            section, _, name = path.partition(".")
            if name and isinstance(mapping.setdefault(section, {}), dict):
                mapping[section][name] = value
            else:
                mapping[section] = value
        config = configure(mapping, problems=problems)
        if unread := [path for path in flat if path.startswith("data.") and path not in _DATA_READ]:
            message = "`ltuning train` reads files, fit is given what they hold; leave it out"
            raise ConfigError([Problem(path, message) for path in unread])
        return config

    def _reads_texts(self, given: Mapping[str, object], options: Mapping[str, object]) -> bool:
        """Whether the method that is asked for reads the texts of labels."""
        name = given.get("method") or options.get("method.name", self.default_method)
        asked = {option: options.get(f"method.{option}") for option in ("start", "head")}
        return catalog.reads_texts(MethodOptions(name=name, **asked))  # type: ignore[arg-type]

    def _checked(self, config: Config, given: Mapping[str, object]) -> Config:
        """A whole configuration, on the backbone that is loaded, with nothing given beside it."""
        _refuse_beside(config, given)
        config = replace(config, backbone=_agreed(config.backbone, self._shared.loaded))
        check(config)
        return config

    @abstractmethod
    def _read_labels(self, labels: object, texts_read: bool) -> Any:
        """Labels as given, as the configuration takes them."""

    @abstractmethod
    def _outputs(self, fitted: F) -> Sequence[str]:
        """Names of the scores."""

    @abstractmethod
    def _restore(self, opened: Opened) -> None:
        """Take up what was saved."""

    @abstractmethod
    def _own_config(self, fitted: F) -> dict[str, object]:
        """What `_restore` needs beside what every artifact says."""

    def _files(self, fitted: F) -> dict[str, bytes]:
        """Of the artifact, by their path in its folder."""
        return {**fitted.model.adapter.files(), **self._own_files(fitted)}

    def _own_files(self, fitted: F) -> dict[str, bytes]:
        """Likewise, files by their path in the folder."""
        return {}

    def _take_up(self, opened: Opened) -> None:
        # PEFT draws weights for LoRA before those that were saved take their place.
        with torch.random.fork_rng():
            self._restore(opened)

    def _trained(self) -> F:
        if self._fitted is None and (saved := self._saved) is not None:
            self._check_backbone(saved.folder, saved.config)
            # Apart, so that no other thread finds it half made.
            made = object.__new__(type(self))
            vars(made).update(vars(self), _saved=None)
            made._take_up(checked(saved))
            self._fitted, self._saved = made._fitted, None
        if self._fitted is None:
            raise _not_fitted(
                "expected a trained classifier, got one that is not fitted; call "
                f"fit(texts, labels) or {type(self).__name__}.from_pretrained(folder)"
            )
        return self._fitted

    def _check_backbone(self, folder: Path, saved: Mapping[str, Any]) -> None:
        expected, got = saved["backbone"]["fingerprint"], self.backbone.fingerprint
        if expected != got:
            raise ArtifactError(
                f"expected the backbone that '{folder}' was trained on, "
                f"'{saved['backbone']['name']}' with fingerprint {expected[:16]}, "
                f"got '{self.backbone.name}' with {got[:16]}; "
                "give the folder or hub id of the first one as backbone, in Python with its "
                "revision"
            )
        found, loaded = self.backbone.start_token, self.backbone.options
        if "start_token" in saved["backbone"]:
            start = saved["backbone"]["start_token"]
        else:  # of before there were any: its tokenizer was as it was saved
            start = found if self.backbone.starts_texts_as("none") else None
        if start == found:
            return
        what = (
            f"expected a backbone that reads {_start(start)}, as the classifier in '{folder}' was "
            f"trained, got '{self.backbone.name}', which reads {_start(found)}; "
        )
        option = "none" if start is None else "auto"
        if None in (start, found) and (loaded is None or loaded.start_token != option):
            raise ArtifactError(f"{what}load it by its name with start_token={option}")
        raise ArtifactError(f"{what}load it with the tokenizer that it had then")

    def _run(
        self,
        fitted: F,
        num_rows: int,
        has_validation: bool,
        folder: Path,
        resume: bool,
        callbacks: Sequence[TrainerCallback],
    ) -> Run:
        """How the training goes on.

        Args:
            fitted: what is trained.
            num_rows: training texts, or windows of them.
            has_validation: whether there are texts to validate on.
            folder: of the checkpoints.
            resume: go on from the newest one there.
            callbacks: beside our own.
        """
        from ltuning.training import arguments

        config = self.config
        causal = self.backbone.family.causal
        defaults = catalog.training_defaults(fitted.model.method, num_rows, causal=causal)
        on_cpu = self.backbone.device.type == "cpu"
        chosen = self._chosen(defaults, has_validation, on_cpu)
        return arguments.Run(
            arguments.training_arguments(chosen, folder, seed=config.seed, num_texts=num_rows),
            arguments.resolved_stopping(config.stopping, config.training, chosen.published),
            arguments.in_training(chosen.fields),
            max_branches=config.backbone.max_branches,
            cache_size=config.backbone.cache_size,
            resume=resume,
            callbacks=callbacks,
        )

    def _chosen(self, defaults: Mapping[str, object], has_validation: bool, on_cpu: bool) -> Chosen:
        from ltuning.training.arguments import Chosen

        return Chosen(
            {**defaults, **self.config.training},
            self.config.stopping,
            has_validation=has_validation,
            on_cpu=on_cpu,
            published=self.config.method.recipe == "paper",
        )

    def _check_training(self, has_validation: bool) -> None:
        """Refuse what cannot be trained with, before the backbone is loaded.

        Raises:
            ConfigError: every problem there is.
        """
        from ltuning.training.arguments import trainer_problems

        on_cpu = not torch.cuda.is_available() or self.config.backbone.device == "cpu"
        defaults = catalog.training_defaults(self.config.method)
        found = sharding_problems(self.config) + (
            check_training(self.config.training)
            or trainer_problems(self._chosen(defaults, has_validation, on_cpu))
        )
        if found:
            raise ConfigError(found)

    def _callbacks(
        self, given: Sequence[TrainerCallback], checkpoints: Path | None
    ) -> list[TrainerCallback]:
        """With checkpoints by the clock where they are kept."""
        from ltuning.training.checkpoints import TimedCheckpoints

        is_timed = checkpoints is not None and self.config.training.get("save_strategy") != "no"
        return [*given, *([TimedCheckpoints()] if is_timed else [])]


def _start(token: str | None) -> str:
    return "texts alone" if token is None else f"texts after the token '{token}'"


def _not_fitted(message: str) -> NotFittedError:
    """The error, which is scikit-learn's too where someone may catch that."""
    exceptions = sys.modules.get("sklearn.exceptions")
    if exceptions is None:
        return NotFittedError(message)
    bases = (NotFittedError, exceptions.NotFittedError)
    # A class that is made here has no name to be pickled by, as for another process.
    pickled = {"__reduce__": lambda self: (_not_fitted, self.args)}
    error: NotFittedError = type(NotFittedError.__name__, bases, pickled)(message)
    return error


def moved(options: BackboneOptions, place: str | Path) -> BackboneOptions:
    """The options of a backbone that is somewhere else now."""
    name = absolute_path(str(place))
    known = options if name == options.name else BackboneOptions()
    return replace(options, name=name, gguf_file=known.gguf_file, revision=known.revision)


def steps_shown(progress: bool | None) -> AbstractContextManager[Sequence[TrainerCallback]]:
    """What `training.bar` has by this name; its first import of rich draws a random number."""
    state = random.getstate()
    from ltuning.training.bar import steps_shown as shown

    random.setstate(state)
    return shown(progress)


@contextmanager
def training(checkpoints: Path | None) -> Iterator[Path]:
    """A training goes on while the block runs, with all processes; the folder of its checkpoints.

    Args:
        checkpoints: None = a temporary one.
    """
    kept = nullcontext(checkpoints) if checkpoints else temporary_folder()
    with alone(), processes.together(), kept as folder:
        yield folder


def check_device(backbone: Backbone) -> None:
    """Refuse to train where transformers' Trainer, which takes the first GPU in sight, would not.

    Of several processes each takes a GPU of its own.

    Raises:
        BackboneError: a backbone on another GPU.
    """
    if backbone.device.type != "cuda":
        return
    own = processes.device_index(torch.cuda.device_count())
    if backbone.device.index in (None, own):
        return
    if processes.number() > 1:
        raise BackboneError(
            f"expected cuda:{own} for process {processes.rank()}, got {backbone.device}; leave the "
            "device out, so that each process takes its own"
        )
    raise BackboneError(
        f"expected the first GPU in sight for training, got {backbone.device}; set "
        f"CUDA_VISIBLE_DEVICES={backbone.device.index} and leave the device out"
    )


def check_inputs(backbone: Backbone, *given: object) -> None:
    """Refuse inputs that are others in another process, where every pass is one of all of them.

    Raises:
        DataError: says where.
    """
    if backbone.is_sharded:
        from ltuning.training.parallel import check_same_inputs

        check_same_inputs(*given)


def loaded_options(backbone: Backbone) -> dict[str, Any]:
    """Options that load the same backbone again; those that it was loaded without are left out."""
    default = BackboneOptions()
    if backbone.options is not None:
        chosen = {name: getattr(backbone.options, name) for name in _OF_LOADED}
    else:
        # Made by hand, of a model: only what it is can be said.
        dtype = _dtype_name(backbone)
        known = dtype in get_args(get_type_hints(BackboneOptions)["dtype"])
        chosen = {"revision": backbone.revision, "dtype": dtype if known else default.dtype}
        is_bare = backbone.family.causal and backbone.start_token is None
        chosen["start_token"] = "none" if is_bare else default.start_token
    changed = {name: of for name, of in chosen.items() if of != getattr(default, name)}
    if backbone.is_sharded:
        changed["device"] = SHARD
    return {**changed, "name": absolute_path(backbone.name)}


def _undivided(config: Config) -> Config:
    """With a backbone that one process can load."""
    return replace(config, backbone=replace(config.backbone, device=BackboneOptions().device))


def _undivided_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    options, config = given["options"], given["config"]
    kept = {path: of for path, of in (options or {}).items() if path != "backbone.device"}
    return {"options": kept or None, "config": config and _undivided(config)}


def _dtype_name(backbone: Backbone) -> str:
    return str(backbone.dtype).removeprefix("torch.")


def _refuse_beside_loaded(revision: str | None, device: str) -> None:
    given = {"revision": revision is not None, "device": device != "auto"}
    problems = [
        Problem(f"backbone.{name}", "the backbone is loaded already; give it to Backbone.load")
        for name, is_given in given.items()
        if is_given
    ]
    if problems:
        raise ConfigError(problems)


def _check_kinds(options: object, config: object) -> None:
    """Refuse what cannot hold options.

    Raises:
        ConfigError: with both.
    """
    problems = []
    if options is not None and not isinstance(options, Mapping):
        message = f"expected options by their paths such as method.rank, got {shown(options)}"
        problems.append(Problem("options", message))
    if config is not None and not isinstance(config, Config):
        message = f"expected a Config, got {shown(config)}; Config.from_dict makes one of a mapping"
        problems.append(Problem("config", message))
    if problems:
        raise ConfigError(problems)


def _flat_options(
    options: Mapping[str, object], given: Mapping[str, object], is_loaded: bool
) -> tuple[dict[str, Any], list[Problem]]:
    """Options by dotted path, and which of them say again what was said, or have no effect."""
    flat: dict[str, Any] = {}
    for path, value in options.items():
        if isinstance(value, Mapping) and "." not in path and path != "labels":
            flat.update({f"{path}.{name}": inner for name, inner in value.items()})
        else:
            flat[path] = value
    problems = [
        Problem(path, f"expected it once, got it as {argument}= and in options; leave one out")
        for argument, path in _PATHS.items()
        if argument in given and path in flat
    ]
    fixed = [f"backbone.{name}" for name in (*_OF_LOADED, "device", "trust_remote_code")]
    problems += [
        Problem(path, "expected it where the backbone is loaded, got a loaded one; leave it out")
        for path in fixed
        if is_loaded and path in flat
    ]
    return flat, problems


def _refuse_beside(config: Config, given: Mapping[str, object]) -> None:
    """Refuse arguments beside a configuration, which would not be read.

    Raises:
        ConfigError: with all of them.
    """
    problems = [
        Problem(
            _PATHS.get(argument, argument),
            f"expected it in the configuration, got {argument}= beside config=; set it there, or "
            "leave config out",
        )
        for argument in given
        if argument != "backbone"
    ]
    named, inside = given.get("backbone"), absolute_path(config.backbone.name)
    if named is not None and named != inside:
        problems.append(
            Problem(
                "backbone.name",
                f"expected '{inside}', as the configuration says, got '{named}' beside config=; "
                "set it there, or leave one of them out",
            )
        )
    if problems:
        raise ConfigError(problems)


def _agreed(options: BackboneOptions, backbone: Backbone | None) -> BackboneOptions:
    """The configuration's options of a backbone, with what a loaded one says of itself.

    Raises:
        ConfigError: where both say something, and not the same.
    """
    options = replace(options, name=absolute_path(options.name))
    if backbone is None:
        return options
    loaded, default = loaded_options(backbone), BackboneOptions()
    found = {
        "name": loaded["name"],
        "revision": backbone.revision,
        "dtype": _dtype_name(backbone),
        "quantize": None if backbone.options is None else backbone.options.quantize,
        "attention": backbone.attention,
        "start_token": loaded.get("start_token", default.start_token),
        "max_length": backbone.max_length,
    }
    problems = [
        Problem(
            f"backbone.{name}",
            f"expected {of_loaded!r}, as the loaded backbone has it, got {getattr(options, name)!r}"
            " in the configuration; change it there, or load the backbone with these options",
        )
        for name, of_loaded in found.items()
        if name == "name" or getattr(options, name) != getattr(default, name)
        if getattr(options, name) not in (of_loaded, loaded.get(name))
    ]
    if options.device == SHARD and not backbone.is_sharded:
        message = (
            f"expected a backbone that is divided over processes for device '{SHARD}', got a whole "
            "one; leave device out, or load the backbone with it"
        )
        problems.append(Problem("backbone.device", message))
    if problems:
        raise ConfigError(problems)
    return replace(options, **loaded)
