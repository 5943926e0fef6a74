"""`ltuning train`: from labelled texts to a saved classifier."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ltuning import processes
from ltuning.cli import options
from ltuning.cli.terminal import Terminal, show_facts, show_next, silence_libraries
from ltuning.errors import ConfigError, DataError, LabelError, Problem
from ltuning.suggestions import listed

if TYPE_CHECKING:
    from ltuning.cli.run_folder import RunFolder
    from ltuning.config import Config, DataOptions
    from ltuning.estimators.front import Front
    from ltuning.tasks.task import Labelled, Task

logger = logging.getLogger("ltuning")

_DATA, _TRAINING, _OUTPUT = "Data", "Training", "Output"

_Source = Annotated[
    str | None,
    typer.Argument(metavar="SOURCE", help="The data, as with --data.", show_default=False),
]
_Data = Annotated[
    str | None,
    typer.Option(
        metavar="SOURCE",
        help="A csv, tsv, jsonl or parquet file (or .gz), a folder with train, validation and "
        "test files, or a hub data set id.",
        rich_help_panel=_DATA,
    ),
]
_Shots = Annotated[
    int | None,
    typer.Option(
        help="Use this many training texts per class, drawn at random.", rich_help_panel=_DATA
    ),
]
_OosLabel = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What is predicted of texts that look like those of no label, such as oos; the data "
        "may have texts with it, and need not.",
        rich_help_panel=_DATA,
    ),
]
_ClassWeight = Annotated[
    str | None,
    typer.Option(
        metavar="balanced",
        help="Let the texts of all labels count the same in sum, however many there are of each; "
        "weights by label: --set 'data.class_weight={spam: 3}'.",
        rich_help_panel=_TRAINING,
    ),
]
_LongTexts = Annotated[
    str | None,
    typer.Option(
        metavar="HOW",
        help="cut texts that are longer than the model reads (the default), or read them whole in "
        "windows that overlap.",
        rich_help_panel=_DATA,
    ),
]
_Quantize = Annotated[
    str | None,
    typer.Option(
        metavar="BITS",
        help="4bit or 8bit: the backbone's weights in fewer bits, on a GPU.",
        rich_help_panel=_TRAINING,
    ),
]
_TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run Python code that comes with the backbone's checkpoint.",
        rich_help_panel=_TRAINING,
    ),
]
_Time = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="With --method auto: how long training may take, such as 90s, 10m or 1.5h; methods "
        "that would take longer are left out.",
        rich_help_panel=_TRAINING,
    ),
]
_Recipe = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="default, or paper for the published choices.",
        rich_help_panel=_TRAINING,
    ),
]
_Seed = Annotated[int | None, typer.Option(help="Seed of every draw.", rich_help_panel=_TRAINING)]
_Epochs = Annotated[
    float | None,
    typer.Option(help="Passes over the training texts.", rich_help_panel=_TRAINING),
]
_Steps = Annotated[
    int | None,
    typer.Option(
        help="Optimizer steps, instead of epochs; if neither is given, three epochs or 30,000 "
        "texts, whichever is less, in 150 steps or more.",
        rich_help_panel=_TRAINING,
    ),
]
_CacheSize = Annotated[
    float | None,
    typer.Option(
        metavar="GIB",
        help="Room for what the layers below a prefix make of the training texts, so that "
        "they run once and not in every epoch: in memory up to 1 GiB, above in a file. 0 to "
        "keep nothing; 2 if not given.",
        rich_help_panel=_TRAINING,
    ),
]
_ConfigFile = Annotated[
    Path | None,
    typer.Option(
        parser=options.user_path,
        metavar="FILE",
        help="YAML file with options, such as the config.yaml of an earlier run. Options "
        "given here win over it.",
        rich_help_panel=_TRAINING,
    ),
]
_Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="A.B=C",
        help="Any option of the configuration by its path, such as method.rank=32 or "
        "training.learning_rate=1e-3; wins over all else.",
        rich_help_panel=_TRAINING,
    ),
]
_Output = Annotated[
    Path | None,
    typer.Option(
        parser=options.user_path,
        metavar="DIR",
        help="Folder for the classifier.",
        rich_help_panel=_OUTPUT,
    ),
]
_Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace the classifier in DIR, once the new one is complete.",
        rich_help_panel=_OUTPUT,
    ),
]
_Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on with the interrupted run in DIR, with the options it began with.",
        rich_help_panel=_OUTPUT,
    ),
]


def train(
    source: _Source = None,
    data: _Data = None,
    labels: options.LabelsFile = None,
    label: options.LabelTexts = None,
    task: options.Task = None,
    shots: _Shots = None,
    text_column: options.TextColumn = None,
    text_pair_column: options.TextPairColumn = None,
    label_column: options.LabelColumn = None,
    delimiter: options.Delimiter = None,
    encoding: options.Encoding = None,
    empty_texts: options.EmptyTexts = None,
    missing_labels: options.MissingLabels = None,
    long_texts: _LongTexts = None,
    backbone: options.Backbone = None,
    quantize: _Quantize = None,
    trust_remote_code: _TrustRemoteCode = False,
    method: options.Method = None,
    time: _Time = None,
    recipe: _Recipe = None,
    seed: _Seed = None,
    epochs: _Epochs = None,
    steps: _Steps = None,
    class_weight: _ClassWeight = None,
    oos_label: _OosLabel = None,
    cache_size: _CacheSize = None,
    config: _ConfigFile = None,
    set_: _Settings = None,
    output: _Output = None,
    overwrite: _Overwrite = False,
    resume: _Resume = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a classifier on labelled texts and save it.

    The backbone stays frozen; what is trained and saved is a small adapter. Without a validation
    split, a part of the training texts is held out to choose the best weights. Started by torchrun,
    several processes share every batch: `torchrun --nproc-per-node 2 -m ltuning train ...`.
    """
    from ltuning.cli.configuration import read_labels

    if not processes.is_main():
        _take_part()
        return
    problems = _clashes(output, resume, overwrite, epochs, steps)
    if resume and method == "auto" and config is None:
        method = time = None  # the options of the run have what was chosen for it
    if source is not None and data is not None:
        message = f"expected the data once, got '{source}' in front of it too; leave one out"
        problems.append(Problem("--data", message))
    given = {
        "task": task,
        "backbone.name": backbone,
        "backbone.quantize": quantize,
        "backbone.trust_remote_code": trust_remote_code or None,
        "backbone.cache_size": cache_size,
        "labels": read_labels(labels, label or [], problems),
        "method.name": method,
        "method.recipe": recipe,
        "stopping.seconds": None if time is None else _seconds(time, problems),
        "data.path": source if data is None else data,
        "data.text_column": text_column,
        "data.text_pair_column": text_pair_column,
        "data.label_column": label_column,
        "data.delimiter": delimiter,
        "data.encoding": encoding,
        "data.empty_texts": empty_texts,
        "data.missing_labels": missing_labels,
        "data.long_texts": long_texts,
        "data.shots": shots,
        "data.class_weight": class_weight,
        "data.oos_label": oos_label,
        "seed": seed,
        "training.num_train_epochs": epochs,
        "training.max_steps": steps,
    }
    terminal = Terminal(quiet)
    with terminal.waiting("checking the options"):
        base = _base(config, output if resume else None, problems)
        chosen = _configured(base, given, set_ or [], problems, output, overwrite or resume)
    assert output is not None  # its absence is a problem
    _run(chosen, output, resume, overwrite, terminal)


def _seconds(words: str, problems: list[Problem]) -> float | None:
    """Seconds of words such as `90s`, `10m` or `1.5h`."""
    number, unit = words[:-1], {"s": 1, "m": 60, "h": 3600}.get(words[-1:])
    try:
        if unit is not None:
            return float(number) * unit
    except ValueError:
        pass
    problems.append(Problem("--time", f"expected a time such as 90s, 10m or 1.5h, got '{words}'"))
    return None


def _configured(
    base: Mapping[str, object],
    given: Mapping[str, Any],
    settings: Sequence[str],
    problems: Sequence[Problem],
    output: Path | None,
    replaces: bool,
) -> Config:
    """The checked configuration; with its problems come those of the data and of the folder."""
    from ltuning.cli.configuration import configure, raise_all, refusals
    from ltuning.cli.run_folder import RunFolder
    from ltuning.data.sources import check_source

    def check_data() -> None:
        if given["data.path"] is not None:
            check_source(given["data.path"])

    def check_output() -> None:
        if output is not None:
            RunFolder(output).check(replaces)

    try:
        chosen = configure(base, given, settings, problems, needs_data=True)
    except ConfigError as error:
        beside = {"--data": check_data, "--output": check_output}
        found = [
            Problem(option, str(refused))
            for option, check in beside.items()
            for refused in refusals([check])
        ]
        raise ConfigError([*error.problems, *found]) from None
    if refused := refusals([check_data]):
        raise_all([*refused, *refusals([check_output])])
    return chosen


def _clashes(
    output: Path | None, resume: bool, overwrite: bool, epochs: float | None, steps: int | None
) -> list[Problem]:
    problems = []
    if output is None:
        problems.append(Problem("--output", "missing; give the folder for the classifier"))
    if resume and overwrite:
        message = "expected one of --resume and --overwrite, got both: go on, or start anew"
        problems.append(Problem("--resume", message))
    if epochs is not None and steps is not None:
        message = "expected one of --epochs and --steps, got both"
        problems.append(Problem("--epochs", message))
    return problems


def _base(
    config: Path | None, resumed: Path | None, problems: list[Problem]
) -> Mapping[str, object]:
    """The options below those of the command line: of the file, or of the run to go on with."""
    if config is None and resumed is not None:
        from ltuning.cli.run_folder import RunFolder

        return RunFolder(resumed).options()
    from ltuning.cli.configuration import read_options

    return read_options(config, problems)


def _run(config: Config, output: Path, resume: bool, overwrite: bool, terminal: Terminal) -> None:
    from ltuning.cli.run_folder import RunFolder

    folder = RunFolder(output)
    with folder.claimed():
        classifier = _train(config, folder, resume, overwrite, terminal)
    processes.leave()
    if not terminal.quiet:
        _summarize(classifier.config, classifier, output)


def _train(
    config: Config, folder: RunFolder, resume: bool, overwrite: bool, terminal: Terminal
) -> Front[Any]:
    """Train and save, while no other process is at work in the folder."""
    from ltuning.cli.run_folder import digest

    if resume:
        folder.check_same(config)
    # An interrupted run that was to replace a classifier finds that classifier there.
    folder.check(overwrite or resume)
    training, validation = _examples(config, terminal)
    sha = digest([training, validation])
    if resume:
        folder.check_same_data(sha)
    elif hint := _better(config, training):
        terminal.note(hint)
    classifier = _fit(config, training, validation, folder, sha, resume, terminal)
    with folder.writing(), terminal.waiting("saving"):
        files = _files(classifier)
        classifier.save_pretrained(folder.folder, overwrite=overwrite or resume, files=files)
        folder.finish()
    return classifier


def _examples(config: Config, terminal: Terminal) -> tuple[Labelled, Labelled | None]:
    """Training and validation texts, the second held out from the first where it has to be.

    None to validate on where there is no such split and none are to be held out.
    """
    from ltuning.cli.configuration import read_splits
    from ltuning.data.splits import take_shots
    from ltuning.estimators.rows import warn_of_rows
    from ltuning.tasks.table import TASKS

    data, task = config.data, TASKS[config.task]
    with terminal.waiting(f"reading {data.path}"):
        splits = read_splits(config, "train", "validation")
    if "train" not in splits:
        raise DataError(
            f"{data.path}: expected a split 'train', got none; name a file there train.csv, or "
            "give the file itself"
        )
    training: Any = splits["train"]
    task.check(training)
    warn_of_rows(splits, one_of_each=task.one_of_each)
    if data.shots is not None:
        training = take_shots(training, data.shots, config.seed)
    if "validation" in splits:
        counts = (
            f"{len(training):,} texts to train on, {len(splits['validation']):,} to validate on"
        )
        terminal.note(counts)
        _warn_of_fraction(data)
        return training, splits["validation"]
    return _held_out(config, task, training, terminal)


def _warn_of_fraction(data: DataOptions) -> None:
    """Say where a part to hold out was given beside a split to validate on."""
    if data.validation_fraction != type(data).validation_fraction:
        logger.warning(
            "data.validation_fraction=%g has no effect: %s has a validation split, and no "
            "training text is held out",
            data.validation_fraction,
            data.path,
        )


def _held_out(
    config: Config, task: Task, training: Any, terminal: Terminal
) -> tuple[Labelled, Labelled | None]:
    """Training texts in two parts, the second to validate on; None where that is to have none."""
    if not config.data.validation_fraction:
        terminal.note(
            f"no validation: all {len(training):,} texts are trained on, and the last weights are "
            "kept"
        )
        return training, None
    rest, held_out = task.hold_out(training, config.data.validation_fraction, config.seed)
    terminal.note(
        f"no validation split: of {len(training):,} training texts {len(held_out):,} are held out "
        f"for validation{task.held_out}; {len(rest):,} are trained on"
    )
    return rest, held_out


def _fit(
    config: Config,
    training: Labelled,
    validation: Labelled | None,
    folder: RunFolder,
    sha: str,
    resume: bool,
    terminal: Terminal,
) -> Front[Any]:
    from ltuning.cli.training_bar import TrainingBar
    from ltuning.estimators.rows import unsaid
    from ltuning.tasks.table import TASKS

    task = TASKS[config.task]
    door = task.door()
    silence_libraries()
    if task.reads_labels and config.labels is not None:
        used = {name for part in (training, validation) if part for name in task.names(part)}
        # Held-out texts of no label are left out where none are trained on.
        outside = {config.data.oos_label} - {*task.names(training)}
        _refuse_labels_without_texts(config.labels, used - outside)
    task.check_given(config.labels or (), training)
    classifier = door(config=config)
    # The configuration of then, with a method in the place of auto.
    bar = TrainingBar(terminal, None if resume else lambda: folder.begin(classifier.config, sha))
    kept = folder.newest_step() if resume else None
    if resume:
        terminal.note(_found(kept))
    # Whatever is wrong so far is said, once.
    processes.of_main((config, folder.checkpoints, kept is not None))
    try:
        with folder.writing(), bar, unsaid():
            classifier.fit(
                training.inputs,
                training.labels,
                None if validation is None else (validation.inputs, validation.labels),
                checkpoints=folder.checkpoints,
                resume=kept is not None,
                callbacks=[bar],
                progress=False,
            )
    except KeyboardInterrupt:
        terminal.note(_interrupted(folder, bar.step))
        raise
    return classifier


def _take_part() -> None:
    """Train beside the main process, which has checked everything and alone writes."""
    from ltuning.tasks.table import TASKS

    told: Any = processes.of_main(None)
    config, checkpoints, resume = told
    silence_libraries()
    training, validation = _examples(config, Terminal(quiet=True))
    TASKS[config.task].door()(config=config).fit(
        training.inputs,
        training.labels,
        None if validation is None else (validation.inputs, validation.labels),
        checkpoints=checkpoints,
        resume=resume,
        progress=False,
    )
    processes.leave()


def _better(config: Config, training: Labelled) -> str | None:
    """A line where the figures of this project have another method clearly ahead."""
    from ltuning.methods.choice import better
    from ltuning.tasks.table import TASKS

    labels = {*TASKS[config.task].names(training), *(config.labels or ())}
    found = better(config, len(training), len(labels))
    if found is None:
        return None
    return (
        f"for {len(training):,} texts of {len(labels)} labels {found.method} may be better: "
        f"{found.why} ({found.source}); --method auto takes it"
    )


def _found(step: int | None) -> str:
    """What `--resume` goes on from."""
    if step is None:
        return "the interrupted run has no checkpoint yet: it starts with its first step"
    return f"going on with the interrupted run from its step {step:,}"


def _interrupted(folder: RunFolder, step: int | None) -> str:
    """What is kept of an interrupted run, and how it goes on; no step where it had not begun."""
    command = f"ltuning train --resume --output {shlex.quote(str(folder.folder))}"
    kept = folder.newest_step()
    if kept is not None:
        where = "" if step is None else f" at step {step:,}"
        return f"interrupted{where}; its steps up to {kept:,} are kept: go on with {command}"
    if step is None:
        return "interrupted before the first step; nothing is kept"
    return (
        f"interrupted at step {step:,}, before the first checkpoint, which comes after five "
        "minutes or an evaluation: its steps are lost, its options kept; start again with "
        f"{command}"
    )


def _refuse_labels_without_texts(given: Iterable[str], used: set[str]) -> None:
    """Refuse labels of the data that are not among those given; of none, the names stand."""
    missing, unused = sorted(used - {*given}), sorted({*given} - used)
    if missing:
        also = f"; no text has the label {listed(unused)}" if unused else ""
        raise LabelError(
            f"expected --label or --labels for every label of the data or for none, got none for "
            f"{listed(missing)}{also}: add what is missing, or leave all out, so that names stand "
            "for themselves"
        )


def _files(classifier: Front[Any]) -> dict[str, str]:
    """What the folder of a run holds beside the classifier."""
    assert classifier.result_ is not None  # it is fitted
    history = [json.dumps(row) + "\n" for row in classifier.result_.history]
    return {
        "config.yaml": classifier.resolved_config.to_yaml(),
        "metrics.json": json.dumps(classifier.figures, indent=2) + "\n",
        "history.jsonl": "".join(history),
    }


def _summarize(config: Config, classifier: Front[Any], output: Path) -> None:
    from ltuning.metrics import WORDS

    training, validation = classifier.figures["training"], classifier.figures.get("validation", {})
    figures = ", ".join(
        f"{words} {validation[name]:.3f}" for name, words in WORDS.items() if name in validation
    )
    rows = {
        "trained": f"{config.method.name} on {config.backbone.name}, "
        f"{training['trainable_parameters']:,} parameters, "
        f"{training['steps']:,} steps in {training['seconds']:.1f} s, "
        f"{training['padding_share']:.1%} of the tokens padding",
    }
    if highest := training.get("highest_text_weight"):
        rows["weights"] = f"{training['lowest_text_weight']:.2f} to {highest:.2f}, in the mean 1"
    if figures:
        rows["validation"] = f"{figures} (the weights kept)"
    if "calibration" in classifier.figures:
        from ltuning.cli.figure_tables import calibration

        rows["calibration"] = calibration(classifier.figures)
    elif (number := _too_few_to_calibrate(classifier)) is not None:
        rows["calibration"] = (
            f"none: {number:,} validation texts, and it takes 50 or more; ltuning calibrate takes "
            "others"
        )
    if thresholds := classifier.figures.get("thresholds"):
        lowest, highest = min(thresholds.values()), max(thresholds.values())
        rows["thresholds"] = (
            f"{lowest:.2f} to {highest:.2f}, for each label the best of the validation texts; the "
            "figures of validation are at these"
        )
    show_facts(rows | {"saved": str(output)})
    commands = [f"ltuning predict {shlex.quote(str(output))} texts.txt"]
    if _has_test_split(config.data.path):
        arguments = f"{shlex.quote(str(output))} --data {shlex.quote(str(config.data.path))}"
        commands.insert(0, f"ltuning evaluate {arguments}")
    show_next(commands)


def _too_few_to_calibrate(classifier: Any) -> int | None:
    """How many validation texts there are, where a temperature wants more."""
    from ltuning.calibration import LEAST_TEXTS
    from ltuning.tasks.table import TASKS

    config = classifier.config
    if not TASKS[config.task].one_of_each or not config.calibrate:
        return None
    try:
        number = len(classifier.answers_.true)
    except DataError:  # there was no validation
        return None
    return number if number < LEAST_TEXTS else None


def _has_test_split(path: str | None) -> bool:
    from ltuning.data.files import stem_of

    folder = Path(path or "")
    return folder.is_dir() and any(stem_of(file.name) == "test" for file in folder.iterdir())
