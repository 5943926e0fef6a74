"""Many files into a folder of parts: nothing is lost, nothing doubled, whoever dies."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from ltuning.cli.main import app
from ltuning.data.sources import Dialect
from ltuning.engines import job as job_module
from ltuning.engines import local
from ltuning.engines.job import Asked, Job, Output, Worker, identity, planned
from ltuning.errors import ArtifactError, BackboneError, DataError, ScoresError

if TYPE_CHECKING:
    from ..conftest import Toy


@pytest.fixture(scope="module")
def run_folder(
    bert: Any, toy: Toy, classifier: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    place = tmp_path_factory.mktemp("engines") / "run"
    classifier(bert, "probe", steps=1).fit(toy.texts[:12], toy.labels[:12]).save_pretrained(place)
    return place


@pytest.fixture
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of three rows."""
    monkeypatch.setattr(job_module.planned, "__defaults__", (3,))


@pytest.fixture
def files(toy: Toy, tmp_path: Path) -> Path:
    """A folder with two csv files and one of parquet, of 7, 2 and 5 rows."""
    import pyarrow
    import pyarrow.parquet

    place = tmp_path / "texts"
    place.mkdir()
    for name, texts in (("a.csv", toy.test_texts[:7]), ("b.csv", toy.test_texts[7:9])):
        lines = [f'{row},"{text}"' for row, text in enumerate(texts)]
        (place / name).write_text("\n".join(["id,text", *lines]) + "\n")
    table = pyarrow.table({"text": toy.test_texts[:5], "n": pyarrow.array(range(5), "int16")})
    pyarrow.parquet.write_table(table, place / "c.parquet")
    return place


def call(*words: object) -> Any:
    return CliRunner().invoke(app, ["predict", *map(str, words)])


def rows_of(folder: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet

    found = []
    for part in sorted(folder.glob("part-*")):
        if part.suffix == ".jsonl":
            found += [json.loads(line) for line in part.read_text().splitlines()]
        else:
            found += pyarrow.parquet.read_table(part).to_pylist()
    return found


def test_parts_have_every_row_in_its_order_and_every_column(
    run_folder: Path, files: Path, few_rows: None, toy: Toy, tmp_path: Path, bert: Any
) -> None:
    from ltuning import LabelClassifier

    output = tmp_path / "out"
    result = call(run_folder, files / "*", "--engine", "local", "--output", output)
    assert result.exit_code == 0, result.stderr
    assert "14 rows in 6 parts in" in result.stderr
    rows, texts = rows_of(output), [*toy.test_texts[:9], *toy.test_texts[:5]]
    assert [row["text"] for row in rows] == texts
    assert [row.get("id") for row in rows] == [*"0123456", *"01", *[None] * 5]
    assert [row.get("n") for row in rows] == [*[None] * 9, *range(5)]
    door = LabelClassifier.from_pretrained(run_folder, backbone=bert)
    assert [row["predicted_label"] for row in rows] == list(door.predict(texts))
    highest = door.predict_proba(texts).max(1).tolist()
    assert [row["probability"] for row in rows] == pytest.approx(highest, abs=1e-5)
    manifest = json.loads((output / "manifest.json").read_text())
    assert (manifest["rows"], manifest["is_finished"]) == (14, True)
    assert [len(entry["parts"]) for entry in manifest["files"]] == [3, 1, 2]
    assert sorted(path.name for path in output.iterdir())[:2] == [
        "manifest.json",
        "part-0000000-00000000.parquet",
    ]


def test_freed_memory_is_given_back_after_each_piece_and_within_it(
    run_folder: Path,
    files: Path,
    few_rows: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    returned: list[int] = []
    monkeypatch.setattr(job_module, "return_memory", lambda: returned.append(1))
    words = (run_folder, files / "*", "--engine", "local", "--output")
    call(*words, tmp_path / "out")
    assert len(returned) == 6
    monkeypatch.setattr(job_module, "_TIDY_AFTER", 2)
    call(*words, tmp_path / "again")
    assert len(returned) == 6 + 11  # and within the five pieces that have as many rows


def test_the_same_command_goes_on_and_another_is_refused(
    run_folder: Path,
    files: Path,
    few_rows: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output, answered = tmp_path / "out", []
    words = (run_folder, files / "a.csv", "--engine", "local", "--output", output)
    assert call(*words).exit_code == 0
    whole = rows_of(output)
    (output / "part-0000000-00000001.parquet").unlink()
    answer = Worker.answer
    monkeypatch.setattr(
        Worker, "answer", lambda self, asked: answered.append(asked) or answer(self, asked)
    )
    again = call(*words)
    assert "4 of 7 rows are done already" in again.stderr
    assert [asked.piece.number for asked in answered] == [1]
    assert rows_of(output) == whole
    refused = call(*words, "--probabilities")
    assert refused.exit_code == 1
    assert "holds what was begun with other things: wanted; choose" in refused.stderr
    assert rows_of(output) == whole
    assert call(*words, "--probabilities", "--overwrite").exit_code == 0
    assert "probability_food" in rows_of(output)[0]
    os.utime(files / "a.csv", ns=(1, 1))
    changed = call(*words, "--probabilities")
    assert f"files ({files / 'a.csv'})" in changed.stderr.replace("\n", "")


def test_another_delimiter_or_a_file_that_grew_is_other_work(
    run_folder: Path, files: Path, few_rows: None, tmp_path: Path
) -> None:
    words = (run_folder, files / "a.csv", "--engine", "local", "--output", tmp_path / "out")
    assert call(*words).exit_code == 0
    assert "other things: dialect;" in call(*words, "--delimiter", ",").stderr
    plan = planned([files / "a.csv"], Dialect(), 3)
    with (files / "a.csv").open("a") as file:
        file.write('7,"bread"\n')
    with pytest.raises(DataError, match="a.csv: the file was changed meanwhile"):
        plan.pieces[0].piece.read()
    assert "other things: files (" in call(*words).stderr


def test_a_pattern_finds_every_level_and_nothing_that_is_written(
    run_folder: Path, files: Path, tmp_path: Path
) -> None:
    deeper = files / "more" / "still"
    deeper.mkdir(parents=True)
    (deeper / "d.parquet").write_bytes((files / "c.parquet").read_bytes())
    words = (run_folder, files / "**" / "*.parquet", "--engine", "local", "--output", files / "out")
    for _ in range(2):
        result = call(*words)
        assert result.exit_code == 0, result.stderr
        assert "10 rows in 2 parts in" in result.stderr


def test_a_precision_that_cannot_be_reached_is_said_once_and_nothing_is_begun(
    run_folder: Path, files: Path, tmp_path: Path
) -> None:
    words = (run_folder, files / "*", "--engine", "local", "--output", tmp_path / "out")
    for option in ("--target-precision", "--coverage"):
        result = call(*words, option, ".9")
        assert result.exit_code == 1
        assert "keeps its answers on held-out texts, got one without" in result.stderr
        assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_stays_as_it_is(
    run_folder: Path, files: Path, tmp_path: Path
) -> None:
    words = (run_folder, files / "a.csv", "--engine", "local", "--overwrite", "--output")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "x.txt").write_text("mine")
    result = call(*words, tmp_path / "notes")
    assert result.exit_code == 1
    assert (
        "expected a new or empty folder, or one of earlier work of this kind, got" in result.stderr
    )
    (tmp_path / "notes" / "manifest.json").write_text('{"mine": 1}')
    assert "manifest.json is not one that ltuning wrote" in call(*words, tmp_path / "notes").stderr
    assert sorted(path.name for path in (tmp_path / "notes").iterdir()) == [
        "manifest.json",
        "x.txt",
    ]


def test_files_that_cannot_be_read_are_named_and_the_others_go_on(
    run_folder: Path, files: Path, few_rows: None, tmp_path: Path
) -> None:
    (files / "broken.parquet").write_bytes(b"PAR1")
    (files / "bare.csv").write_text("id\n1\n")
    output = tmp_path / "out"
    result = call(run_folder, files / "*", "--engine", "local", "--output", output)
    assert result.exit_code == 1
    assert "14 rows in 6 parts in" in result.stderr
    assert "2 of 5 files are not done, or not whole:" in result.stderr
    assert "broken.parquet: expected a whole parquet file" in result.stderr.replace("\n", " ")
    manifest = json.loads((output / "manifest.json").read_text())
    failed = [entry for entry in manifest["files"] if "error" in entry]
    assert [Path(entry["path"]).name for entry in failed] == ["bare.csv", "broken.parquet"]
    assert manifest["is_finished"] is False
    assert len(rows_of(output)) == 14


def test_lines_of_json_and_a_tagger_give_lines_of_json(
    bert: Any, toy: Toy, tmp_path: Path, few_rows: None, run_folder: Path
) -> None:
    from ltuning import TokenClassifier

    words = [text.split() for text in toy.texts[:6]]
    tags = [["B-thing", *["O"] * (len(row) - 1)] for row in words]
    tagger = TokenClassifier(bert, ["thing"], "probe", steps=1).fit(words, tags)
    tagger.save_pretrained(tmp_path / "tagger")
    (tmp_path / "x.txt").write_text("".join(f"{text}\n" for text in toy.test_texts[:4]))
    lines = [{"text": toy.test_texts[0], "n": 1}, {"text": toy.test_texts[1]}] * 2
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for run, name in ((tmp_path / "tagger", "x.txt"), (run_folder, "x.jsonl")):
        output = tmp_path / f"of-{name}"
        words = [run, tmp_path / name, "--engine", "local", "--output", output]
        if name == "x.jsonl":
            refused = call(*words)
            assert "expected --text-column for JSON lines" in refused.stderr
            words += ["--text-column", "text", "--overwrite"]
        result = call(*words)
        assert result.exit_code == 0, result.stderr
        assert len(list(output.glob("part-*.jsonl"))) == 2
        rows = rows_of(output)
        assert len(rows) == 4
        column = "predicted_spans" if name == "x.txt" else "predicted_label"
        assert all(column in row for row in rows)


def test_a_tagger_takes_what_parquet_has_and_json_has_not(
    bert: Any, toy: Toy, tmp_path: Path
) -> None:
    import pyarrow.parquet

    from ltuning import TokenClassifier

    TokenClassifier(bert, ["thing"], "probe", steps=1).fit(
        [["a", "ball"]] * 4, [["O", "B-thing"]] * 4
    ).save_pretrained(tmp_path / "tagger")
    columns = {
        "text": toy.test_texts[:2],
        "at": [datetime(2026, 1, 2, 3, 4), None],
        "on": [date(2026, 1, 2), date(2026, 1, 3)],
        "price": [Decimal("1.50"), Decimal("2.00")],
        "share": [float("nan"), 0.5],
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
    words = [tmp_path / "tagger", tmp_path / "x.parquet", "--engine", "local"]
    result = call(*words, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    first, second = rows_of(tmp_path / "out")
    assert [first[name] for name in ("at", "on", "price")] == [
        "2026-01-02T03:04:00",
        "2026-01-02",
        "1.50",
    ]
    assert (first["share"], second["share"], second["at"]) == (None, 0.5, None)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["x.csv", "--engine", "dask", "--output", "o"], "unknown engine 'dask': expected one of"),
        (["x.csv", "--engine", "local"], "expected --output with --engine, a folder for the parts"),
        (["--engine", "local", "--output", "o"], "expected a file with --engine, or a pattern"),
        (["none*.csv", "--engine", "local", "--output", "o"], "no such file, and no file of such"),
        ([".", "--engine", "local", "--output", "o"], "a pattern such as './*.parquet', got a fol"),
        (
            ["x.csv", "--engine", "local", "--output", "o", "--text", "a"],
            "expected no --text with --engine, which reads files into a folder",
        ),
        (
            ["x.csv", "--engine", "local", "--output", "o", "--workers", "0"],
            "expected 1 or more for --workers, got 0",
        ),
        (["x.csv", "--workers", "2"], "expected --workers with --engine alone, got it without"),
    ],
)
def test_options_that_do_not_go_together(
    run_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    error: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.csv").write_text("text\na\n")
    result = call(run_folder, *words)
    assert result.exit_code == 1
    assert error in " ".join(result.stderr.split())
    assert not (tmp_path / "o").exists()


def test_without_ray_its_engine_says_what_to_install(
    run_folder: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ltuning import ray_cluster

    monkeypatch.setattr(ray_cluster, "find_spec", lambda name: None)
    result = call(run_folder, files / "a.csv", "--engine", "ray", "--output", tmp_path / "out")
    assert "--engine ray needs an optional library: pip install 'ltuning[ray]'" in result.stderr
    assert not (tmp_path / "out").exists()


def made(run_folder: Path, output: Path, **changes: Any) -> Job:
    from ltuning.data.sources import Columns
    from ltuning.predicting import Wanted

    wanted = Wanted(False, None, None, None)
    known = {"sha256": identity(run_folder), "of_words": False, "columns": Columns(None)}
    known |= {
        "wanted": wanted,
        "dialect": Dialect(),
        "output": str(output),
        "classifier": str(run_folder),
    }
    return Job(**(known | changes))


def test_a_worker_of_another_version_or_classifier_does_nothing(
    run_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match="expected ltuning 0.0 on every machine, as where the"):
        Worker(made(run_folder, tmp_path, ltuning_version="0.0"))
    with pytest.raises(ArtifactError, match="is another one than when the work was begun"):
        Worker(made(run_folder, tmp_path, sha256="0"))


def test_scores_that_are_no_numbers_cost_their_piece_alone(
    run_folder: Path, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, (piece, *_) = Worker(made(run_folder, tmp_path)), many(tmp_path, toy, 3)

    for kind in (ScoresError, BackboneError):

        def fail(*_: object, kind: type[Exception] = kind) -> None:
            raise kind("expected something")

        with monkeypatch.context() as patched:
            patched.setattr(job_module, "predicted", fail)
            assert worker.answer(piece).error == "expected something"
    assert worker.answer(piece).rows == 3


def test_two_do_not_work_in_one_folder(run_folder: Path, tmp_path: Path) -> None:
    with (
        Output(tmp_path / "out").at_work(),
        pytest.raises(ArtifactError, match="another process is at work in"),
        Output(tmp_path / "out").at_work(),
    ):
        pass


# --- deaths ---------------------------------------------------------------------------------------


def many(tmp_path: Path, toy: Toy, rows: int) -> list[Asked]:
    path = tmp_path / "many.txt"
    path.write_text("".join(f"{text}\n" for text in (toy.test_texts * rows)[:rows]))
    return list(planned([path], Dialect(), 3).pieces)


def test_a_process_that_is_killed_costs_nothing(run_folder: Path, toy: Toy, tmp_path: Path) -> None:
    pieces, found = many(tmp_path, toy, 60), []
    job = made(run_folder, tmp_path)
    for done in local.in_processes(job, pieces, 1):
        found.append(done)
        if len(found) == 1:
            os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)
    assert {one.name for one in found} == {asked.part(job) for asked in pieces}
    assert sum(one.rows for one in found) == 60
    assert len(rows_of(tmp_path)) == 60


def test_a_piece_that_kills_its_process_is_named_and_the_others_go_on(
    run_folder: Path, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from concurrent.futures.process import BrokenProcessPool

    pieces, tries = many(tmp_path, toy, 15), []
    job = made(run_folder, tmp_path)

    def by_pool(job: Job, left: Any, workers: int, running: dict[Any, Asked]) -> Any:
        tries.append([asked.piece.number for asked in left])
        for number, asked in enumerate(left):
            running[number] = asked
            if asked.piece.number == 1:
                running[number + 1] = left[min(number + 1, len(left) - 1)]
                raise BrokenProcessPool
            yield running.pop(number), job_module.Done(0, asked.part(job), 3)

    monkeypatch.setattr(local, "_by_pool", by_pool)
    found = list(local.in_processes(job, pieces, 2))
    assert tries == [[0, 1, 2, 3, 4], [1], [2], [3, 4]]
    assert [one.rows for one in found] == [3, 0, 3, 3, 3]
    words = "counted from row 4: it killed the process that it was alone in; is memory short?"
    assert (found[1].error or "").endswith(words)


def test_processes_that_all_die_end_the_work(
    run_folder: Path, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from concurrent.futures.process import BrokenProcessPool

    def dies(job: Job, left: Any, workers: int, running: dict[Any, Asked]) -> Any:
        running.update(enumerate(left))
        raise BrokenProcessPool

    monkeypatch.setattr(local, "_by_pool", dies)
    with pytest.raises(DataError, match="3 pieces in turn killed the process that they were alone"):
        list(local.in_processes(made(run_folder, tmp_path), many(tmp_path, toy, 12), 2))


def test_a_driver_that_is_killed_is_gone_on_with(
    run_folder: Path, toy: Toy, tmp_path: Path
) -> None:
    many(tmp_path, toy, 3 * 8192)
    output = tmp_path / "out"
    words = [str(run_folder), str(tmp_path / "many.txt"), "--engine", "local"]
    words += ["--output", str(output)]
    process = subprocess.Popen([sys.executable, "-m", "ltuning", "predict", *words])
    while not list(output.glob("part-*")):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    left = len(list(output.glob("part-*")))
    assert left < 3
    result = call(*words)
    assert result.exit_code == 0, result.stderr
    assert f"{left * 8192:,} of 24,576 rows are done already" in result.stderr
    assert [row["text"] for row in rows_of(output)] == (toy.test_texts * 24576)[:24576]
    assert not [path for path in output.iterdir() if path.name.endswith(".tmp")]
