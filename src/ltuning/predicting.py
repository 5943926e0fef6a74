"""Tables of texts with the columns of a prediction behind their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ltuning.errors import DataError

if TYPE_CHECKING:
    from ltuning.calibration import Answers
    from ltuning.config import Config
    from ltuning.data.sources import Columns, Table
    from ltuning.estimators.token_classifier import Entity, TokenClassifier
    from ltuning.tasks.task import Task

PROBABILITY = "probability"
PREDICTION_SET = "prediction_set"
DIGITS = 6


class Watcher(Protocol):
    """Who is told what goes on."""

    def note(self, text: str) -> None:
        """A line of words."""

    def counting(self, what: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """Texts are worked through; gives what is called with the number of those just done."""


class Keeps(Protocol):
    """A classifier, as far as it keeps what it said of held-out texts."""

    @property
    def answers_(self) -> Answers:
        """What it said."""


class Nobody:
    """A watcher that is told nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    @contextmanager
    def counting(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Nothing."""
        yield lambda count: None


# What loads the classifier, and who watches.
_Place = tuple[Callable[[], Any], Watcher]


@dataclass(frozen=True)
class Wanted:
    """What is asked for beside labels, in the names of the options of `ltuning predict`."""

    probabilities: bool
    abstain: float | None
    target_precision: float | None
    coverage: float | None

    def check(self, zero_shot: bool) -> None:
        """Refuse what could not be answered by any classifier.

        Args:
            zero_shot: whether nothing is trained, so that there are no held-out texts.

        Raises:
            DataError: numbers that are no shares, two thresholds, or what needs held-out texts.
        """
        of_held_out = {
            "--target-precision": self.target_precision,
            "--coverage": self.coverage,
        }
        for option, value in of_held_out.items():
            if zero_shot and value is not None:
                raise DataError(
                    f"expected a trained classifier for {option}, which goes by held-out texts, "
                    "got --zero-shot; leave one of them out"
                )
        if self.abstain is not None and self.target_precision is not None:
            raise DataError(
                "expected one of --abstain and --target-precision, got both; leave one out"
            )
        shares = {
            "--abstain": self.abstain,
            "--target-precision": self.target_precision,
            "--coverage": self.coverage,
        }
        for option, value in shares.items():
            if value is not None and not 0 < value < 1:
                raise DataError(f"expected a number above 0 and below 1 for {option}, got {value}")

    def check_task(self, task: Task) -> None:
        """Refuse what a task does not say.

        Raises:
            DataError: says which option.
        """
        if task.of_words and self.probabilities:
            raise DataError(
                "expected --probabilities for labels of texts, got a tagger, whose spans come with "
                "theirs; leave it out"
            )
        given = {
            "--abstain": self.abstain,
            "--target-precision": self.target_precision,
            "--coverage": self.coverage,
        }
        named = [option for option, value in given.items() if value is not None]
        if named and not task.one_of_each:
            raise DataError(
                f"expected {named[0]} for a classifier that gives each text one label, got one of "
                f"task '{task.name}'; leave it out"
            )

    def threshold(self, classifier: Keeps, watcher: Watcher) -> float | None:
        """From which probability on a label is said; None where all are."""
        if self.target_precision is None:
            return self.abstain
        found = classifier.answers_.threshold_for(self.target_precision)
        watcher.note(
            f"{self.target_precision:g} of the labels were right from the probability "
            f"{found.threshold:.4f} on, which {found.coverage:.1%} of the held-out texts reach"
        )
        return found.threshold

    def least_in_set(self, classifier: Keeps) -> float | None:
        """From which probability on a label is in a prediction set; None where none is asked."""
        if self.coverage is None:
            return None
        return classifier.answers_.least_probability(self.coverage)


def check_columns(table: Table, *named: str | None, instead: str = "") -> None:
    """Raises DataError where columns of lines of text are named, which have none.

    Args:
        table: as it was read.
        named: columns.
        instead: of leaving them out, what can be done.
    """
    if table.format == "txt" and (name := next(filter(None, named), None)):
        raise DataError(
            f"{table.origin}: expected csv, tsv, jsonl or parquet for the column {name!r}, got "
            f"lines of text; leave it out{instead}"
        )


def _of_names(names: list[str]) -> list[str]:
    """The columns of every label's probability."""
    return [f"{PROBABILITY}_{name}" for name in names]


@dataclass(frozen=True)
class Writing:
    """How the table with the predictions is written: where to, and with which columns.

    Args:
        output: the file; None is standard output.
        escape: whether texts that are formulas to a spreadsheet are escaped.
        replace_columns: whether columns of an earlier prediction give way.
    """

    output: Path | None
    escape: bool
    replace_columns: bool

    def room(self, table: Table, added: list[str]) -> Table:
        """The table without columns that have the names of those to be added.

        Raises:
            DataError: there are such, and they are not to be replaced.
        """
        taken = [name for name in added if name in table.columns]
        if taken and not self.replace_columns:
            raise DataError(
                f"{table.origin}: there is a column {taken[0]!r} already; rename it or take it "
                "out, or replace it with --replace-columns"
            )
        columns = [name for name in table.columns if name not in taken]
        rows = [{name: row[name] for name in row if name not in taken} for row in table.rows]
        return replace(table, columns=columns, rows=rows) if taken else table

    def without_earlier(self, table: Table, task: Task, names: list[str]) -> Table:
        """With `replace_columns` the table without those that any prediction may be asked for."""
        if not self.replace_columns:
            return table
        sets = [PREDICTION_SET] if task.one_of_each else []
        return self.room(table, [*sets, *_of_names(names)])

    def prepared(self, table: Table) -> Table:
        """The table as it is written: lists and formulas as the format has them."""
        from ltuning.data.delimited import escape_formulas

        written = _writable(table, self._format(table))
        if not self.escape:
            return written
        if self._format(table) not in ("csv", "tsv"):
            raise DataError(
                f"expected csv or tsv for --escape-formulas, got {self._format(table)}; leave it "
                "out"
            )
        return escape_formulas(written)

    def encoded(self, table: Table) -> bytes:
        """The file.

        Raises:
            DataError: the format cannot hold the table.
        """
        from ltuning.data.formats import encode_table

        return encode_table(self.prepared(table), self._format(table))

    def _format(self, table: Table) -> str:
        from ltuning.data.files import format_of

        return table.format if self.output is None else format_of(self.output)


def with_columns(table: Table, added: list[str], values: Iterable[Sequence[object]]) -> Table:
    """The table with columns behind its own, their values row by row."""
    rows = [
        {**row, **dict(zip(added, said, strict=True))}
        for row, said in zip(table.rows, values, strict=True)
    ]
    return replace(table, columns=[*table.columns, *added], rows=rows)


def predicted(
    place: _Place, config: Config, table: Table, columns: Columns, wanted: Wanted, write: Writing
) -> Table:
    """The table with the columns of the prediction behind its own.

    Args:
        place: what loads the classifier, once nothing is wrong with the table; and who watches.
        config: of the classifier.
        table: with texts.
        columns: where they are.
        wanted: beside labels.
        write: how the table is to be written.

    Raises:
        DataError: a table without texts, with columns of these names, or that could not be written.
    """
    from ltuning.tasks.table import TASKS

    task = TASKS[config.task]
    if task.of_words:
        return _tagged(place, task, table, columns, write)
    return _labelled(place, config, table, columns, wanted, write)


def _tagged(place: _Place, task: Task, table: Table, columns: Columns, write: Writing) -> Table:
    """The table with a column of spans, or for lists of words of tags, behind its own."""
    from ltuning.data.sources import Columns, tagged_from_table
    from ltuning.data.tagged import text_column_of

    # Lines have one column, whatever training read, and no place for a second one.
    named = None if table.format == "txt" else columns.text
    if table.format == "txt":
        table = replace(table, format=task.lines)
    spans_column, tags_column = task.output_columns
    table = write.room(table, [*task.output_columns] if write.replace_columns else [])
    sentences = tagged_from_table(table, Columns(named), need_tags=False).sentences
    column = text_column_of(table, named)
    has_words = any(isinstance(row.get(column), list) for row in table.rows)
    added = [tags_column if has_words else spans_column]
    table = write.room(table, added)
    write.encoded(with_columns(table, added, ([sentence.tokens or []] for sentence in sentences)))
    load, watcher = place
    tagger: TokenClassifier = load()
    found: list[list[Any]]
    with watcher.counting("predicting", len(sentences)) as advance:
        if has_words:
            found = tagger.predict_tags(sentences, progress=advance)
        else:
            spans = tagger.predict(sentences, progress=advance)
            found = [[_span(span) for span in several] for several in spans]
    return with_columns(table, added, ([values] for values in found))


def _span(entity: Entity) -> dict[str, object]:
    return {**asdict(entity), "probability": round(entity.probability, DIGITS)}


def _labelled(
    place: _Place, config: Config, table: Table, columns: Columns, wanted: Wanted, write: Writing
) -> Table:
    """The table with the columns of the prediction behind its own."""
    from ltuning.data.examples import BY_CONVENTION
    from ltuning.data.sources import examples_from_table
    from ltuning.estimators.answers import sets_said
    from ltuning.tasks.table import TASKS
    from ltuning.values import label_name

    task, oos_label = TASKS[config.task], config.data.oos_label
    every = wanted.probabilities
    sets = [] if wanted.coverage is None else [PREDICTION_SET]
    own = [*task.output_columns, *sets]
    if table.format == "txt":
        columns = BY_CONVENTION  # lines have one column, whatever training read,
        table = replace(table, format=task.lines)  # and no place for a second one
    table = write.room(table, own)
    examples = examples_from_table(table, columns, need_labels=False, empty_texts="keep")
    load, watcher = place
    classifier = load()
    names = [label_name(label) for label in classifier.classes_.tolist()]
    of_names = _of_names(names) if every else []
    table = write.without_earlier(write.room(table, of_names), task, names)
    added = own + of_names
    lists = [not task.one_of_each, *(name in sets for name in added[1:])]
    said_of_some = names if oos_label is None else [*names, oos_label]
    write.encoded(with_columns(table, added, _likely(said_of_some, lists, len(examples))))
    threshold = wanted.threshold(classifier, watcher)
    least_in_set = wanted.least_in_set(classifier)
    with watcher.counting("predicting", len(examples)) as advance:
        scored, outside = answers(classifier, task, examples.texts, advance)
    decided = task.decide(scored, task.thresholds(classifier))
    withheld = (scored.max(1) < (threshold or 0.0)) & ~outside
    if threshold is not None:
        watcher.note(
            f"{int(withheld.sum()):,} of {len(scored):,} texts have no label: no probability "
            f"reaches {threshold:.4f}"
        )

    in_sets: Any = repeat(None)
    if least_in_set is not None:
        in_sets = sets_said(names, scored, least_in_set, outside, oos_label)

    def row_of(
        one: Any, chances: Any, in_set: list[str] | None, is_withheld: bool, is_outside: bool
    ) -> list[object]:
        first, *rest = task.output_row(one, chances, names)
        rest += [] if in_set is None else [in_set]
        first = oos_label if is_outside else None if is_withheld else first
        return [first, *rest, *(chances.tolist() if every else [])]

    said = map(row_of, decided, scored, in_sets, withheld, outside)
    values = (
        [round(value, DIGITS) if isinstance(value, float) else value for value in row]
        for row in said
    )
    return with_columns(table, added, values)


def answers(
    classifier: Any, task: Task, texts: Sequence[Any], advance: Callable[[int], None]
) -> tuple[Any, Any]:
    """Probabilities `[N, K]`, and `[N]` whether a text belongs to no label."""
    import numpy as np

    from ltuning.calibration import probabilities_of

    if not task.one_of_each:
        scored = classifier.predict_proba(texts, progress=advance)
        return scored, np.zeros(len(scored), dtype=bool)
    scores = classifier.scores(texts, progress=advance)
    return probabilities_of(scores, classifier.temperature_), classifier.is_outside(scores)


def _likely(names: list[str], lists: list[bool], rows: int) -> Iterator[list[object]]:
    """Values like those of a prediction, with every label's name in them.

    Args:
        names: of the labels.
        lists: of each column whether it holds lists of labels.
        rows: how many.
    """
    for row in range(rows):
        label = names if row == 0 else names[:1]
        first = label if lists[0] else " ".join(label)
        yield [first, *(label if is_list else 0.5 for is_list in lists[1:])]


def _writable(table: Table, format: str) -> Table:
    """With text in the place of lists of labels where the format written has no lists."""
    from ltuning.data.label_sets import SEPARATOR
    from ltuning.tasks.multilabel import Multilabel

    ours = (*Multilabel.output_columns, PREDICTION_SET)
    columns = [column for column in ours if column in table.columns]
    if not columns or format not in ("csv", "tsv"):
        return table
    rows = []
    for row in table.rows:
        # What is no list is of an earlier prediction, and stays.
        found = {name: row[name] for name in columns if isinstance(row.get(name), list)}
        if unsure := [name for names in found.values() for name in names if SEPARATOR in name]:
            raise DataError(
                f"expected label names without {SEPARATOR!r}, which stands between them in "
                f"{format}, got {unsure[0]!r}; write jsonl or parquet"
            )
        rows.append({**row, **{name: SEPARATOR.join(names) for name, names in found.items()}})
    return replace(table, rows=rows)
