from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import write_csv

FILES = {
    "README.md",
    "calibration",
    "adapter_model.safetensors",
    "config.yaml",
    "history.jsonl",
    "ltuning_config.json",
    "metrics.json",
}
STEPWISE = ("--set", "training.eval_strategy=steps", "--set", "training.eval_steps=2")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def contents(folder: Path) -> dict[Path, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): path.read_bytes() for path in files}


def metrics(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return found


def config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((folder / "config.yaml").read_text())
    return found


def weights(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


# --- a run


def test_a_run_leaves_the_artifact_and_its_records(run: Callable[..., Any], tmp_path: Path) -> None:
    outcome = run("--output", tmp_path / "run", "--steps", 4)
    assert outcome.code == 0
    assert names(tmp_path / "run") == FILES
    assert metrics(tmp_path / "run")["training"]["steps"] == 4
    assert metrics(tmp_path / "run")["validation"].keys() == {"accuracy", "loss", "macro_f1", "mcc"}
    history = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in history][-1] == 4
    assert "lt-prefix on " in outcome.stdout
    words = " ".join(outcome.stdout.split())
    assert "calibration none: 6 validation texts, and it takes 50 or more; ltuning" in words
    assert f" saved {tmp_path / 'run'} " in words
    assert f"  ltuning predict {tmp_path / 'run'} texts.txt" in outcome.stdout


def test_what_is_held_out_is_said_with_counts(run: Callable[..., Any], tmp_path: Path) -> None:
    outcome = run("--output", tmp_path / "run", "--shots", 4)
    assert (
        "no validation split: of 12 training texts 3 are held out for validation, from each label "
        "its share; 9 are trained on" in outcome.stderr
    )
    assert metrics(tmp_path / "run")["training"]["texts"] == 9


def test_a_validation_split_is_used_and_shots_leave_it_alone(
    run: Callable[..., Any], tmp_path: Path, data: Path
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    (folder / "test.csv").rename(folder / "dev.csv")
    outcome = run("--output", tmp_path / "run", "--data", folder, "--shots", 4)
    assert "12 texts to train on, 30 to validate on" in outcome.stderr
    assert metrics(tmp_path / "run")["training"]["texts"] == 12


def test_a_part_to_hold_out_beside_a_validation_split_is_told_of(
    run: Callable[..., Any], tmp_path: Path, data: Path
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    (folder / "test.csv").rename(folder / "dev.csv")
    options = ("--data", folder, "--steps", 1, "--set", "data.validation_fraction=0", "--quiet")
    outcome = run("--output", tmp_path / "run", *options)
    assert outcome.code == 0
    assert outcome.stderr == (
        f"warning: data.validation_fraction=0 has no effect: {folder} has a validation split, and "
        "no training text is held out\n"
    )
    assert metrics(tmp_path / "run")["training"]["texts"] == 48


def test_the_test_split_is_never_opened(
    run: Callable[..., Any], tmp_path: Path, data: Path
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    (folder / "test.csv").write_bytes(b"\xff\xfe broken")
    assert run("--output", tmp_path / "run", "--data", folder).code == 0


def test_quiet_shows_nothing(run: Callable[..., Any], tmp_path: Path) -> None:
    outcome = run("--output", tmp_path / "run", "--quiet")
    assert (outcome.code, outcome.stdout, outcome.stderr) == (0, "", "")


def test_a_run_repeats_from_its_configuration(run: Callable[..., Any], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    first, second = tmp_path / "first", tmp_path / "second"
    label = ("--label", "food=bread", "--label", "food=cheese", "--label", "travel=a train")
    assert (
        run("--output", first, "--shots", 6, "--seed", 3, *label, "--label", "sport=team").code == 0
    )
    outcome = run("--config", first / "config.yaml", "--output", second)
    assert outcome.code == 0
    assert config(first) == config(second)
    assert metrics(first)["validation"] == metrics(second)["validation"]
    tensors = [load_file(folder / "adapter_model.safetensors") for folder in (first, second)]
    assert all(tensors[0][name].equal(tensors[1][name]) for name in tensors[0])


def test_the_command_line_wins_over_the_file_and_set_over_both(
    run: Callable[..., Any], tmp_path: Path, data: Path
) -> None:
    file = tmp_path / "options.yaml"
    file.write_text(
        "seed: 1\nmethod: {name: prefix, num_tokens: 3}\ntraining: {num_train_epochs: 9}\n"
        "labels: {food: bread, sport: ball, travel: hotel}\ndata: {shots: 5}\n"
    )
    options = ("--seed", 2, "--method", "lt-prefix", "--shots", 6, "--steps", 2)
    settings = ("--set", "data.shots=4", "--set", "method.num_tokens=12")
    outcome = run("--config", file, "--output", tmp_path / "run", *options, *settings)
    assert outcome.code == 0, outcome.stderr
    found = config(tmp_path / "run")
    assert (found["seed"], found["method"]["name"], found["data"]["shots"]) == (2, "lt-prefix", 4)
    assert found["method"]["num_tokens"] == 12
    assert found["training"]["max_steps"] == 2
    assert "num_train_epochs" not in found["training"]
    assert found["labels"] == {
        "food": ["bread"],
        "sport": ["ball"],
        "travel": ["hotel"],
    }
    assert found["data"]["path"] == str(data)


def test_relative_paths_are_kept_absolute(
    run: Callable[..., Any], tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data)
    assert run("--data", "train.csv", "--output", tmp_path / "run").code == 0
    assert config(tmp_path / "run")["data"]["path"] == str(data / "train.csv")


def test_classes_may_count_the_same_whatever_their_texts(
    run: Callable[..., Any], toy: Any, tmp_path: Path
) -> None:
    texts, labels = toy.texts[:30] + toy.texts[30:48:3], toy.labels[:30] + toy.labels[30:48:3]
    path = write_csv(tmp_path / "train.csv", texts, labels)
    words = ("--data", path, "--class-weight", "balanced", "--steps", 1)
    outcome = run("--output", tmp_path / "run", *words)
    assert outcome.code == 0
    assert config(tmp_path / "run")["data"]["class_weight"] == "balanced"
    training = metrics(tmp_path / "run")["training"]
    assert training["lowest_text_weight"] < 1 < training["highest_text_weight"]
    assert "weights 0." in " ".join(outcome.stdout.split())
    assert ", in the mean 1" in outcome.stdout
    outcome = run("--output", tmp_path / "other", "--class-weight", "even")
    assert "data.class_weight: expected one of 'balanced', got 'even'" in outcome.stderr


def test_labels_from_a_file(run: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "labels.yaml"
    file.write_text("food: [bread, cheese]\nsport: ball\ntravel: train\nmusic: song\n")
    outcome = run("--labels", file, "--output", tmp_path / "run")
    assert outcome.code == 0
    assert "warning: no training text has the label 'music'" in outcome.stderr
    saved = json.loads((tmp_path / "run" / "ltuning_config.json").read_text())
    assert saved["labels"]["food"] == ["bread", "cheese"]


def test_columns_by_name_and_pairs(
    run: Callable[..., Any], ltuning: Callable[..., Any], tmp_path: Path
) -> None:
    rows = [
        {"q": f"the {word}", "a": word, "kind": kind}
        for kind, words in (("food", "bread soup rice salt"), ("sport", "ball team goal race"))
        for word in words.split()
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    named = ("--text-column", "q", "--text-pair-column", "a", "--label-column", "kind")
    outcome = run("--data", file, *named, "--output", tmp_path / "run")
    assert outcome.code == 0, outcome.stderr
    # What training was told of the columns need not be said again.
    assert ltuning("evaluate", tmp_path / "run", "--data", file).code == 0
    predicted = ltuning("predict", tmp_path / "run", file)
    assert [json.loads(line)["a"] for line in predicted.stdout.splitlines()] == [
        row["a"] for row in rows
    ]


@pytest.mark.parametrize("method", ["prefix", "prompt", "lt-prompt"])
def test_the_other_methods(run: Callable[..., Any], tmp_path: Path, method: str) -> None:
    outcome = run("--method", method, "--output", tmp_path / "run")
    assert outcome.code == 0, outcome.stderr
    assert f"trained {method} on" in " ".join(outcome.stdout.split())


def test_the_published_recipe(run: Callable[..., Any], tmp_path: Path) -> None:
    outcome = run("--recipe", "paper", "--output", tmp_path / "run")
    assert outcome.code == 0
    saved = json.loads((tmp_path / "run" / "ltuning_config.json").read_text())
    assert saved["method"]["objective"] == "pairs"


# --- what is wrong with the options is said at once, before a model loads


@pytest.mark.usefixtures("no_model")
def test_problems_of_the_data_and_of_the_folder_come_with_the_others(
    ltuning: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    arguments = ["train", "missing.csv", "--output", tmp_path]
    there = f"{tmp_path} is not empty and is not an ltuning folder"
    missing = "missing.csv: no such file or folder; give a file"
    outcome = ltuning(*arguments)
    assert outcome.stderr.startswith(f"error: 2 problems:\n  {missing}")
    assert there in outcome.stderr
    outcome = ltuning(*arguments, "--seed", -1)
    assert outcome.stderr.startswith("error: 3 problems in the configuration:\n  seed: expected ")
    assert f"\n  --data: {missing}" in outcome.stderr
    assert f"\n  --output: {there}" in outcome.stderr


@pytest.mark.usefixtures("no_model")
def test_every_problem_at_once(ltuning: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "options.yaml"
    file.write_text("data: {shots: many}\nmethods: {}\n")
    arguments = ["--config", file, "--method", "lt-prefx", "--epochs", 1, "--steps", 2]
    arguments += ["--label", "pos", "--set", "method.rank=x", "--set", "nothing"]
    arguments += ["--set", "training.learning_rat=1", "--resume", "--overwrite"]
    outcome = ltuning("train", *arguments)
    assert outcome.code == 1
    assert outcome.stderr.startswith("error: 12 problems in the configuration:\n")
    for problem in (
        "  --output: missing; give the folder for the classifier",
        "  --resume: expected one of --resume and --overwrite, got both: go on, or start anew",
        "  --epochs: expected one of --epochs and --steps, got both",
        "  --label: expected NAME=TEXT such as \"pos=a good review\", got 'pos'",
        "  --set: expected OPTION=VALUE such as method.rank=64, got 'nothing'",
        "  method.name: expected one of 'prefix', 'prompt', 'lt-prefix', 'lt-prompt', "
        "'ls-lora', 'ls-unmask', 'probe', 'full', 'auto', got 'lt-prefx'; did you mean "
        "'lt-prefix'?",
        "  method.rank: expected an integer of 1 or more, got 'x'",
        "  data.shots: expected an integer of 1 or more, got 'many'",
        "  methods: unknown option 'methods': expected one of",
        "  data.path: missing; say with --data where the texts are",
        "  labels: 2 problems with the labels:",
        "  training.learning_rat: transformers.TrainingArguments has no field 'learning_rat'; did "
        "you mean 'learning_rate'?",
    ):
        assert problem in outcome.stderr


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "papre"], "method.recipe: expected one of 'default', 'paper', got 'papre'"),
        (["--shots", "0"], "data.shots: expected an integer of 1 or more, got 0"),
        (["--seed", "-1"], "seed: expected an integer from 0 to 4294967295, got -1"),
        (["--cache-size", "-1"], "backbone.cache_size: expected a number of 0 or more, got -1.0"),
        (
            ["--epochs", "0"],
            "training.num_train_epochs: expected a number above 0, up to 1,000,000, got 0.0",
        ),
        (["--steps", "0"], "training.max_steps: expected an integer of 1 or more, got 0"),
        (
            ["--steps", "3", "--set", "training.num_train_epochs=2"],
            "training: expected one of num_train_epochs and max_steps, got both",
        ),
        (
            ["--quantize", "3bit"],
            "backbone.quantize: expected one of '8bit', '4bit', got '3bit'; did you mean '8bit'?",
        ),
        (
            ["--quantize", "4bit", "--set", "backbone.device=cpu"],
            "backbone.quantize: expected a CUDA device for 4bit, got 'cpu'; leave one of them out",
        ),
        (["--config", "no.yaml"], "no.yaml: no such file"),
        (
            ["--method", "prefix", "--set", "method.head=match"],
            "method.head: expected 'classes' with method 'prefix', got 'match'",
        ),
        (["--set", "seed=[1"], "seed: cannot read the value '[1'"),
        (["--set", "data=3"], "data: expected a section of options such as data.path, got 3"),
        (["--label", "a=x"], "labels: expected two labels or more, got 1: ['a']"),
        (["--label", "a=x", "--label", "b="], "labels: the label 'b' has an empty text"),
        (
            ["--label", "a=x", "--label", "b=x"],
            "labels: the labels 'a' and 'b' have the same text 'x': give each its own",
        ),
        (
            ["--labels", "no.yaml", "--label", "a=x"],
            "--labels: expected one of --labels and --label, got both",
        ),
        (["--labels", "no.yaml"], "--labels: labels file no.yaml: no such file"),
    ],
)
def test_a_problem_names_its_option(
    run: Callable[..., Any], tmp_path: Path, arguments: list[str], message: str
) -> None:
    outcome = run("--output", tmp_path / "run", *arguments)
    assert (outcome.code, outcome.stdout) == (1, "")
    assert message in outcome.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", b"", "x.csv: expected at least one row, got an empty file"),
        ("x.csv", b"text,label\n", "expected at least one row, got column names only"),
        ("x.csv", b"text,label\na,b\nc\n", "x.csv, line 3: expected 2 fields, got 1"),
        ("x.jsonl", b'{"text": "a", "label": "b"}\n{"text\n', "x.jsonl, line 2: expected one JSON"),
        ("x.csv", b"text,label\n\xe9,b\n", "x.csv, line 2: expected UTF-8, got the byte 0xe9"),
        ("x.csv", b"text,label\n ,b\nb,c\n", "x.csv: 1 empty text (line 2)"),
        ("x.csv", b"txt,label\na,b\n", "expected a text column"),
        ("x.csv", b"text,lable\na,b\n", "expected a label column"),
        ("x.csv", b"text,label\na,b\nc,\n", "1 of 2 rows have no label in column 'label' (line 3)"),
        ("x.csv", b"text,label\na,b\nc,d\n", "no class has two examples, so none can be held out"),
        ("x.csv", b"text,label\na,b\nc,b\n", "expected two labels or more, got 1: ['b']"),
        ("x.doc", b"a", "x.doc: expected a file ending of .csv"),
        ("test.csv", b"", "no/such: no such file or folder"),
    ],
)
def test_bad_data_is_named_before_a_model_loads(
    run: Callable[..., Any], tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    source = tmp_path / name if name != "test.csv" else tmp_path / "no" / "such"
    outcome = run("--data", source, "--output", tmp_path / "run")
    assert (outcome.code, outcome.stdout) == (1, "")
    assert message in outcome.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("row", "hint"),
    [
        (
            {"tokens": ["in", "Rome"], "tags": ["O", "B-place"]},
            "words with tags and texts with spans are for --task tags",
        ),
        (
            {"text": "in Rome", "spans": [{"start": 3, "end": 7, "type": "place"}]},
            "words with tags and texts with spans are for --task tags",
        ),
        (
            {"text": "in Rome", "labels": ["place", "trip"]},
            "the first is ['place', 'trip']; lists of labels are for --task multilabel",
        ),
    ],
)
def test_data_of_another_task_is_told_by_its_columns(
    ltuning: Callable[..., Any], tmp_path: Path, row: dict[str, Any], hint: str
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(f"{json.dumps(row)}\n" * 3)
    outcome = ltuning("train", file, "--output", tmp_path / "run")
    assert outcome.code == 1
    assert hint in outcome.stderr


@pytest.mark.usefixtures("no_model")
def test_the_data_may_stand_in_front_but_not_twice(
    ltuning: Callable[..., Any], tmp_path: Path, data: Path
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    (folder / "train.csv").unlink()
    outcome = ltuning("train", folder, "--output", tmp_path / "run")
    assert f"{folder}: expected a split 'train', got none" in outcome.stderr
    outcome = ltuning("train", folder, "--data", data, "--output", tmp_path / "run")
    assert (
        f"--data: expected the data once, got '{folder}' in front of it too; leave one out"
        in outcome.stderr
    )


@pytest.mark.usefixtures("no_model")
def test_a_folder_without_a_training_split(
    run: Callable[..., Any], tmp_path: Path, data: Path
) -> None:
    (tmp_path / "data").mkdir()
    shutil.copy(data / "test.csv", tmp_path / "data")
    outcome = run("--data", tmp_path / "data", "--output", tmp_path / "run")
    assert outcome.code == 1
    assert "expected a split 'train', got none; name a file there train.csv" in outcome.stderr


def test_what_is_wrong_with_the_texts_is_told_in_a_line_each(
    run: Callable[..., Any], toy: Any, tmp_path: Path
) -> None:
    texts = [*toy.texts, "a ball", "a song", "a ball", toy.texts[0]]
    labels = [*toy.labels, "sport", "music", "food", toy.labels[0]]
    train = write_csv(tmp_path / "train.csv", texts, labels)
    dev = write_csv(tmp_path / "dev.csv", ["a song", *toy.test_texts], ["music", *toy.test_labels])
    options = ("--steps", 1, "--method", "probe", "--quiet")
    outcome = run("--data", tmp_path, "--output", tmp_path / "run", *options)
    first = toy.texts[0]
    assert outcome.stderr == (
        f"warning: {train}: 1 label with fewer than 8 texts: 'music' (1); label more texts of it, "
        "or join it with others\n"
        f"warning: {train}: 1 text under several labels: 'a ball' is 'sport' (line 50) and 'food' "
        "(line 52); keep one label of each text\n"
        f"warning: {train}: 1 text more than once, 1 row too many: {first!r} 2 times (lines 2, 53)"
        "; keep one of each\n"
        f"warning: {dev}: 1 of 31 texts are training texts too: 'a song' (line 2, of train line "
        "51); figures of validation are too good with them, take them out of train\n"
    )


def test_few_texts_of_every_label_are_a_choice(
    run: Callable[..., Any], toy: Any, tmp_path: Path
) -> None:
    data = write_csv(tmp_path / "few.csv", toy.texts[:9], toy.labels[:9])
    options = ("--steps", 1, "--method", "probe", "--quiet")
    assert run("--data", data, "--output", tmp_path / "run", *options).stderr == ""


@pytest.mark.usefixtures("no_model")
def test_several_labels_of_a_text_want_their_task(
    ltuning: Callable[..., Any], tmp_path: Path
) -> None:
    file = write_csv(tmp_path / "t.csv", ["one", "two", "three"], ["a|b", "a", "b"])
    outcome = ltuning(
        "train", "--data", file, "--output", tmp_path / "run", "--backbone", "no/such"
    )
    assert outcome.code == 1
    assert "got 'a|b', whose parts are labels too; train with --task multilabel" in outcome.stderr
    assert not (tmp_path / "run").exists()


def test_labels_that_differ_by_signs_train_where_no_text_is_read(
    run: Callable[..., Any], tmp_path: Path, toy: Any
) -> None:
    names = ["+", "-", "a-b", "a_b"]
    labels = [names[row % 4] for row in range(len(toy.texts))]
    file = write_csv(tmp_path / "t.csv", toy.texts, labels)
    listed = tmp_path / "labels.yaml"
    listed.write_text(json.dumps(names))
    for place, more in enumerate(([], ["--labels", listed])):
        chosen = ["--data", file, *more, "--output", tmp_path / f"run{place}", "--method"]
        assert run(*chosen, "probe").code == 0
        refused = run(*chosen[:-2], tmp_path / "no", "--method", "lt-prefix")
        assert refused.code == 1
        assert "the labels 'a-b' and 'a_b' have the same text 'a b'" in refused.stderr


def test_labels_that_do_not_fit_the_data(
    run: Callable[..., Any], tmp_path: Path, data: Path
) -> None:
    outcome = run("--output", tmp_path / "run", "--label", "food=bread", "--label", "sports=ball")
    assert outcome.code == 1
    assert (
        "error: expected --label or --labels for every label of the data or for none, got none for "
        "'sport', 'travel'; no text has the label 'sports': add what is missing, or leave all out, "
        "so that names stand for themselves\n"
    ) in outcome.stderr
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    write_csv(folder / "validation.csv", ["a song"], ["music"])
    outcome = run("--data", folder, "--output", tmp_path / "run")
    assert outcome.code == 1
    assert "expected validation labels that training has, got 'music'" in outcome.stderr
    assert not (tmp_path / "run").exists()


def test_rows_without_a_text_or_a_label_may_be_skipped(
    run: Callable[..., Any], ltuning: Callable[..., Any], tmp_path: Path, data: Path
) -> None:
    file = tmp_path / "train.csv"
    file.write_text((data / "train.csv").read_text() + " ,food\na ball,\n")
    outcome = run("--data", file, "--output", tmp_path / "run")
    assert outcome.code == 1
    assert "2 problems:" in outcome.stderr
    skip = ("--empty-texts", "skip", "--missing-labels", "skip")
    outcome = run("--data", file, "--output", tmp_path / "run", *skip)
    assert outcome.code == 0
    assert "1 empty text (line 50) skipped" in outcome.stderr
    assert "1 row without a label (line 51) skipped" in outcome.stderr
    outcome = ltuning("evaluate", tmp_path / "run", "--data", file, *skip)
    assert (outcome.code, "48 of" in outcome.stdout) == (0, True)


def test_files_as_excel_writes_them(
    run: Callable[..., Any], ltuning: Callable[..., Any], tmp_path: Path, toy: Any
) -> None:
    rows = [f"{text} ü;{label}" for text, label in zip(toy.texts, toy.labels, strict=True)]
    text = "\r\n".join(["Satz;Art", *rows])
    columns = ("--text-column", "Satz", "--label-column", "Art")
    file, output = tmp_path / "train.csv", tmp_path / "out.csv"
    file.write_bytes(text.encode("utf-8-sig"))
    outcome = run("--data", file, "--output", tmp_path / "run")
    assert "expected a text column (text, " in outcome.stderr
    assert (
        "got the columns 'Satz', 'Art'; name the text column with --text-column" in outcome.stderr
    )
    outcome = run("--data", file, "--output", tmp_path / "run", *columns)
    assert outcome.code == 0
    assert "read with a semicolon between the fields" in outcome.stderr
    file.write_bytes(text.encode("cp1252"))
    for verb in ("evaluate", "predict"):
        given = ["--data", file] if verb == "evaluate" else [file, "--output", output]
        outcome = ltuning(verb, tmp_path / "run", *given)
        assert "such as --encoding cp1252 (data.encoding)" in outcome.stderr
        outcome = ltuning(
            verb, tmp_path / "run", *given, "--encoding", "cp1252", "--delimiter", ";"
        )
        assert (outcome.code, outcome.stderr) == (0, "")
    lines = output.read_bytes().decode("cp1252").splitlines()
    assert lines[0] == "Satz;Art;predicted_label;probability"
    assert lines[1].startswith(rows[0] + ";")


def test_a_label_text_that_is_too_long(run: Callable[..., Any], tmp_path: Path) -> None:
    labels = ("--label", "food=" + "bread " * 60, "--label", "sport=ball", "--label", "travel=map")
    outcome = run("--output", tmp_path / "run", *labels)
    assert outcome.code == 1
    assert "expected label texts of at most 32 tokens, got 62" in outcome.stderr


def test_a_loss_that_is_not_finite(run: Callable[..., Any], tmp_path: Path) -> None:
    rate = ("--set", "training.learning_rate=1e30", "--set", "training.max_grad_norm=0")
    outcome = run("--output", tmp_path / "run", "--steps", 30, *rate)
    assert outcome.code == 1
    assert "expected a finite loss" in outcome.stderr


def test_a_backbone_of_an_unknown_family(run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "whisper"}')
    outcome = run("--backbone", tmp_path, "--output", tmp_path / "run")
    assert outcome.code == 1
    assert "got model type 'whisper'" in outcome.stderr


def test_a_backbone_that_is_not_on_this_machine(run: Callable[..., Any], tmp_path: Path) -> None:
    outcome = run("--backbone", "no/such", "--output", tmp_path / "run")
    assert outcome.code == 1
    assert "got: nothing in the cache and no connection to the hub" in outcome.stderr


def test_quantising_needs_a_gpu(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    outcome = run("--quantize", "4bit", "--output", tmp_path / "run")
    assert outcome.code == 1
    assert "expected a CUDA device for quantize=4bit, got a CPU" in outcome.stderr


def test_what_is_left_out_of_a_checkpoint_is_said_on_one_line(
    run: Callable[..., Any], tiny_bert: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "model"))
    options = json.loads((folder / "config.json").read_text())
    options["architectures"] = ["BertForSequenceClassification"]
    (folder / "config.json").write_text(json.dumps(options))
    outcome = run("--backbone", folder, "--trust-remote-code", "--output", tmp_path / "run")
    assert outcome.code == 0, outcome.stderr
    said = f"warning: the head that '{folder}' has (BertForSequenceClassification) is left out"
    assert outcome.stderr.splitlines().count(said) == 1
    assert config(tmp_path / "run")["backbone"]["trust_remote_code"] is True


# --- the output folder


@pytest.mark.usefixtures("no_model")
def test_an_output_that_holds_a_classifier_needs_overwrite(
    run: Callable[..., Any], trained: Path
) -> None:
    before = weights(trained)
    outcome = run("--output", trained)
    assert outcome.code == 1
    assert "holds a trained classifier already: choose another folder" in outcome.stderr
    assert weights(trained) == before


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("name", ["thesis.txt", "checkpoints/precious.txt"])
def test_a_folder_of_other_things_is_never_overwritten(
    run: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    precious = tmp_path / "run" / name
    precious.parent.mkdir(parents=True)
    precious.write_text("precious")
    outcome = run("--output", tmp_path / "run", "--overwrite")
    assert outcome.code == 1
    assert "never overwritten" in outcome.stderr
    assert precious.read_text() == "precious"


def test_overwrite_replaces_a_classifier(
    run: Callable[..., Any], trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    outcome = run("--output", tmp_path / "run", "--overwrite", "--seed", 5)
    assert outcome.code == 0
    assert names(tmp_path / "run") == FILES
    assert config(tmp_path / "run")["seed"] == 5


def test_a_failed_run_leaves_the_earlier_classifier(
    run: Callable[..., Any], ltuning: Callable[..., Any], trained: Path, tmp_path: Path, data: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    rate = ("--set", "training.learning_rate=1e30", "--set", "training.max_grad_norm=0")
    assert run("--output", folder, "--overwrite", "--steps", 30, *rate).code == 1
    assert contents(folder).items() >= contents(trained).items()
    assert ltuning("evaluate", folder, "--data", data).code == 0


# --- resuming


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Ends the next run at a step, as Ctrl-C does, and only that run."""
    from ltuning.cli.training_bar import TrainingBar

    original = TrainingBar.on_step_end

    def at(step: int) -> None:
        def on_step_end(self: Any, args: Any, state: Any, control: Any, **rest: Any) -> None:
            original(self, args, state, control, **rest)
            if state.global_step == step:
                monkeypatch.setattr(TrainingBar, "on_step_end", original)
                raise KeyboardInterrupt

        monkeypatch.setattr(TrainingBar, "on_step_end", on_step_end)

    return at


def test_what_is_kept_of_a_run_that_has_no_checkpoint_yet(
    run: Callable[..., Any], tmp_path: Path, interrupt: Callable[[int], None]
) -> None:
    folder = tmp_path / "run"
    interrupt(2)
    options = ("--epochs", 1, "--set", "training.eval_strategy=epoch")
    outcome = run("--output", folder, *options)
    assert outcome.code == 130
    assert (
        "interrupted at step 2, before the first checkpoint, which comes after five minutes or an "
        "evaluation: its steps are lost, its options kept; start again with "
        f"ltuning train --resume --output {folder}"
    ) in outcome.stderr
    outcome = run("--output", folder, *options, "--resume")
    assert outcome.code == 0, outcome.stderr
    assert "the interrupted run has no checkpoint yet: it starts with its first" in outcome.stderr


def test_all_texts_are_trained_on_where_none_are_held_out(
    run: Callable[..., Any], tmp_path: Path, toy: Any
) -> None:
    source = write_csv(tmp_path / "six.csv", toy.texts[:6], toy.labels[:6])
    folder = tmp_path / "run"
    none = ("--set", "data.validation_fraction=0")
    outcome = run("--output", folder, "--data", source, "--steps", 2, *none)
    assert outcome.code == 0, outcome.stderr
    note = "no validation: all 6 texts are trained on, and the last weights are kept"
    assert note in outcome.stderr
    figures = json.loads((folder / "metrics.json").read_text())
    assert figures["training"]["texts"] == 6 and "validation" not in figures
    patient = run(
        "--output", tmp_path / "other", "--data", source, *none, "--set", "stopping.patience=2"
    )
    assert patient.code == 1
    assert (
        "stopping.patience: there are no texts to validate on; give some, or leave it out"
    ) in patient.stderr


def test_a_resumed_run_ends_like_one_that_was_not_interrupted(
    run: Callable[..., Any], tmp_path: Path, interrupt: Callable[[int], None]
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run("--output", whole, "--steps", 8, *STEPWISE).code == 0
    interrupt(5)
    outcome = run("--output", cut, "--steps", 8, *STEPWISE)
    assert outcome.code == 130
    assert (
        "interrupted at step 5; its steps up to 4 are kept: go on with "
        f"ltuning train --resume --output {cut}"
    ) in outcome.stderr
    assert names(cut) == {"checkpoints"}
    # What a killed process may leave of a checkpoint that it was writing.
    (cut / "checkpoints" / "checkpoint-7").mkdir()
    outcome = run("--output", cut, "--steps", 8, *STEPWISE, "--resume")
    assert outcome.code == 0, outcome.stderr
    assert "going on with the interrupted run from its step 4" in outcome.stderr
    assert names(cut) == FILES
    assert weights(cut) == weights(whole)
    assert metrics(cut)["validation"] == metrics(whole)["validation"]


def test_resume_needs_no_option_again(
    run: Callable[..., Any],
    ltuning: Callable[..., Any],
    tmp_path: Path,
    interrupt: Callable[[int], None],
) -> None:
    interrupt(3)
    run("--output", tmp_path / "run", "--steps", 4, *STEPWISE)
    assert ltuning("train", "--resume", "--output", tmp_path / "run").code == 0
    assert metrics(tmp_path / "run")["training"]["steps"] == 4


def test_resume_refuses_changed_options_and_names_them(
    run: Callable[..., Any], tmp_path: Path, interrupt: Callable[[int], None]
) -> None:
    interrupt(3)
    run("--output", tmp_path / "run", "--steps", 4, "--shots", 8, *STEPWISE)
    changed = ("--epochs", 2, "--shots", 9, "--label", "food=x", "--label", "sport=y")
    outcome = run("--output", tmp_path / "run", *changed, "--resume")
    assert outcome.code == 1
    assert "but these changed:" in outcome.stderr
    for difference in (
        "\n  data.shots: 8 -> 9\n",
        "\n  training.max_steps: 4 -> nothing\n",
        "\n  training.num_train_epochs: nothing -> 2.0\n",
        "\n  labels.food: nothing -> ['x']\n",
    ):
        assert difference in outcome.stderr
    assert names(tmp_path / "run") == {"checkpoints"}


def test_resume_refuses_changed_data(
    run: Callable[..., Any], tmp_path: Path, data: Path, interrupt: Callable[[int], None]
) -> None:
    file = tmp_path / "train.csv"
    shutil.copy(data / "train.csv", file)
    interrupt(3)
    run("--data", file, "--output", tmp_path / "run", *STEPWISE)
    file.write_text(file.read_text() + "one more,food\n")
    outcome = run("--data", file, "--output", tmp_path / "run", *STEPWISE, "--resume")
    assert outcome.code == 1
    assert "its texts or labels changed" in outcome.stderr


def test_an_unfinished_run_is_gone_on_with_or_replaced_but_never_by_accident(
    run: Callable[..., Any], tmp_path: Path, interrupt: Callable[[int], None]
) -> None:
    interrupt(3)
    run("--output", tmp_path / "run", *STEPWISE)
    outcome = run("--output", tmp_path / "run")
    assert outcome.code == 1
    assert "go on with it with --resume, or start anew with --overwrite" in outcome.stderr
    outcome = run("--output", tmp_path / "run", "--overwrite", "--seed", 4)
    assert outcome.code == 0
    assert config(tmp_path / "run")["seed"] == 4


def test_a_run_that_replaces_a_classifier_can_be_resumed(
    run: Callable[..., Any], tmp_path: Path, trained: Path, interrupt: Callable[[int], None]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    interrupt(3)
    assert run("--output", folder, "--overwrite", *STEPWISE).code == 130
    assert weights(folder) == weights(trained)
    assert run("--output", folder, *STEPWISE, "--resume").code == 0
    assert names(folder) == FILES
    assert weights(folder) != weights(trained)


@pytest.mark.usefixtures("no_model")
def test_resume_without_an_unfinished_run(
    run: Callable[..., Any], tmp_path: Path, trained: Path
) -> None:
    outcome = run("--output", tmp_path / "none", "--resume")
    assert outcome.code == 1
    assert "to go on with, got none; leave out --resume to start a run" in outcome.stderr
    finished = "got a finished one; choose another folder, or replace it with --overwrite"
    assert finished in run("--output", trained, "--resume").stderr


def test_a_full_disk_at_save_leaves_what_resume_needs(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ltuning.artifacts import store

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_text", full)
        outcome = run("--output", tmp_path / "run", *STEPWISE)
    assert outcome.code == 1
    assert "No space left on device" in outcome.stderr
    assert names(tmp_path / "run") == {"checkpoints"}
    assert run("--output", tmp_path / "run", *STEPWISE, "--resume").code == 0
    assert names(tmp_path / "run") == FILES


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        # What torch.save makes of it.
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
    ],
)
def test_a_full_disk_at_a_checkpoint(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    from transformers import Trainer

    def full(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(Trainer, "save_model", full)
    outcome = run("--output", tmp_path / "run", *STEPWISE)
    assert outcome.code == 1
    assert str(error) in outcome.stderr
    assert "go on with --resume" in outcome.stderr
