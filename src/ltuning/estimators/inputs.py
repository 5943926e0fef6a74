"""What the front doors are given as texts, labels and words, in whatever holds them, as lists."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ltuning.errors import DataError
from ltuning.sentences import Sentence
from ltuning.suggestions import unknown
from ltuning.texts import Text, lone_surrogate
from ltuning.values import LabelType, is_missing, label_name, label_type, plain_value

if TYPE_CHECKING:
    from ltuning.labels import Labels

# Names of methods that give the values of an array or a column as a list.
_AS_LIST = ("tolist", "to_list", "to_pylist")
_INDICATORS = frozenset({"0", "1", "True", "False"})


def rows_of(given: object, what: str, example: str, *, pairs: bool = False) -> list[Any]:
    """The values of what is given, in its order.

    That may be a list, a tuple or another sequence, a generator, an array or a column (of NumPy,
    pandas, datasets, Arrow, torch), or a frame of pandas or an array of one column.

    Args:
        given: as it came.
        what: was expected, for messages.
        example: of it.
        pairs: whether two columns are pairs.

    Raises:
        DataError: anything else, a text or a dictionary among them.
    """
    if isinstance(given, str | bytes | bytearray | Sentence):
        raise DataError(f"expected {what}, got one text; write {example}")
    if (columns := _columns(given)) is not None:
        return _of_columns(columns, given, what, pairs)
    if isinstance(given, Sequence | Iterator):
        return list(given)
    for name in _AS_LIST:
        if hasattr(given, name) and isinstance(values := getattr(given, name)(), list):
            return values
    if hasattr(given, "__array__") and not isinstance(given, np.ndarray):
        return rows_of(np.asarray(given), what, example, pairs=pairs)
    raise DataError(
        f"expected {what}, got {type(given).__name__}; give a list, a tuple, an array, a column or "
        "a generator"
    )


def _columns(given: object) -> list[list[Any]] | None:
    """The columns of a frame or a table of NumPy; None for what has none."""
    if isinstance(given, np.ndarray) and given.ndim == 2:
        return [column.tolist() for column in given.T]
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(given, pandas.DataFrame):
        return [given.iloc[:, place].tolist() for place in range(given.shape[1])]
    return None


def _of_columns(columns: list[list[object]], given: object, what: str, pairs: bool) -> list[Any]:
    if len(columns) == 1:
        return columns[0]
    if len(columns) == 2 and pairs:
        return list(zip(*columns, strict=True))
    wanted = "one column, or two for pairs" if pairs else "one column"
    raise DataError(
        f"expected {what}, got {type(given).__name__} of {len(columns)} columns; give {wanted}"
    )


def pair_of(validation: object) -> tuple[Any, Any]:
    """Texts and labels of `validation`.

    Raises:
        DataError: not two things.
    """
    if isinstance(validation, tuple | list) and len(validation) == 2:
        return validation[0], validation[1]
    raise DataError(
        f"expected validation as (texts, labels), got {type(validation).__name__}; give both in a "
        "tuple"
    )


# --- texts ----------------------------------------------------------------------------------------


def texts_of(given: object) -> list[Text]:
    """Texts, or pairs of texts.

    Raises:
        DataError: what `rows_of` refuses, what is no text or pair, half a character.
    """
    rows = rows_of(given, "a list of texts", "[text]", pairs=True)
    return [_text(text, index) for index, text in enumerate(rows)]


def _text(text: Any, index: int) -> Text:
    if isinstance(text, str):
        check_whole(text, f"index {index}")
        return text
    is_pair = isinstance(text, tuple | list | np.ndarray) and len(text) == 2
    if is_pair and all(isinstance(part, str) for part in text):
        for part in text:
            check_whole(part, f"index {index}")
        return (text[0], text[1])
    raise DataError(
        f"expected a text or a pair of texts, got {type(text).__name__}: {text!r:.80} at index "
        f"{index}; fill it in or leave it out"
    )


def check_whole(text: str, where: str) -> None:
    """Refuse a text with half a character, which no tokenizer and no file takes.

    Raises:
        DataError: a lone surrogate.
    """
    if (found := lone_surrogate(text)) is not None:
        raise DataError(
            f"expected whole characters, got {found} in the text at {where}; decode it with the "
            "right encoding, or leave the text out"
        )


# --- labels ---------------------------------------------------------------------------------------


def _is_blank(value: object) -> bool:
    """Whether a value is no label: a missing one, or a text of spaces."""
    value = plain_value(value)
    return is_missing(value) or (isinstance(value, str) and not value.strip())


def labels_of(given: object, what: str) -> tuple[list[str], LabelType]:
    """The names of labels, one for each text, and the type that the labels have.

    Args:
        given: as it came.
        what: whose they are, such as `training`.

    Raises:
        DataError: what `rows_of` refuses, missing labels, ones that are no labels, several types.
    """
    values = [plain_value(value) for value in rows_of(given, "a list of labels", "[label]")]
    without = [index for index, value in enumerate(values) if _is_blank(value)]
    if without:
        raise DataError(
            f"expected a label for every {what} text, got {len(without)} of {len(values)} without "
            f"one, the first, {values[without[0]]!r}, at index {without[0]}; label them, or leave "
            "these texts out"
        )
    places = [(value, f"index {index}") for index, value in enumerate(values)]
    return [label_name(value) for value in values], _type_of(places)


def _type_of(values: Sequence[tuple[Any, str]]) -> LabelType:
    """The one type of values, each with its place."""
    found: tuple[Any, str, LabelType] | None = None
    for value, place in values:
        type_ = label_type(value)
        if type_ is None:
            raise DataError(
                f"expected a text, an integer, a number or a boolean as a label, got "
                f"{type(value).__name__} at {place}: {value!r:.80}; write its name"
            )
        if type_ == "text":
            check_whole(value, place)
        if found is not None and type_ != found[2]:
            raise DataError(
                f"expected labels of one type, got {found[0]!r} at {found[1]} and {value!r} at "
                f"{place}; bring them to one"
            )
        found = found or (value, place, type_)
    return "text" if found is None else found[2]


def weights_of(given: object, number: int) -> list[float]:
    """What each of so many texts counts; of None, one each.

    Raises:
        DataError: what `rows_of` refuses, another number, a weight that is negative or not finite.
    """
    if given is None:
        return [1.0] * number
    weights = [plain_value(weight) for weight in rows_of(given, "a list of weights", "[1.0]")]
    if len(weights) != number:
        raise DataError(
            f"expected one weight for each text, got {number} texts and {len(weights)} weights; "
            "give sample_weight one for each"
        )
    wrong = [index for index, weight in enumerate(weights) if not _is_weight(weight)]
    if wrong:
        raise DataError(
            f"expected weights of 0 or more, got {weights[wrong[0]]!r:.80} at index {wrong[0]}; "
            "write 0 where a text is not to count"
        )
    return [float(weight) for weight in weights]


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value >= 0


def label_lists_of(
    given: object, what: str, known: Labels | None
) -> tuple[list[list[str]], LabelType]:
    """The names of the labels of each text, every one looked at, and the type that they have.

    A table of 0 and 1 is refused: nothing in it says which label a column stands for, and 0 and 1
    may be labels themselves.

    Raises:
        DataError: what `rows_of` refuses, a row that is no list, a label twice in it, missing ones,
            one that is not among those known, a table of 0 and 1.
    """
    table = _columns(given)
    if table is not None and len(table) > 1:
        given = [list(row) for row in zip(*table, strict=True)]
    rows = rows_of(given, "a list of label names for each text", "[['name']]")
    wheres = [f"{what}, row {number}" for number in range(1, len(rows) + 1)]
    values = [_values_of_row(row, where) for row, where in zip(rows, wheres, strict=True)]
    places = [(value, where) for row, where in zip(values, wheres, strict=True) for value in row]
    without = [(value, where) for value, where in places if _is_blank(value)]
    if without:
        raise DataError(
            f"{without[0][1]}: expected names of labels, got {without[0][0]!r}, and {len(without)} "
            "missing ones in all; take them out, and write [] where no label applies"
        )
    type_ = _type_of(places)
    lists = [[label_name(value) for value in row] for row in values]
    _refuse_indicators(lists, what, known)
    for names, where in zip(lists, wheres, strict=True):
        _check_names(names, where, known)
    return lists, type_


def _values_of_row(row: object, where: str) -> list[Any]:
    try:
        return [plain_value(value) for value in rows_of(row, "", "")]
    except DataError:
        raise DataError(
            f"{where}: expected a list of label names, got {row!r:.80}; write "
            "['name'], and [] where no label applies"
        ) from None


def _refuse_indicators(lists: Sequence[Sequence[str]], what: str, known: Labels | None) -> None:
    found = {name for names in lists for name in names}
    widths = {len(names) for names in lists}
    if len(widths) != 1 or max(widths) < 2 or not found <= _INDICATORS:
        return
    if known is None or not all(name in known for name in found):
        raise DataError(
            f"{what}: expected the names of the labels that apply to each text, got a table of 0 "
            f"and 1 with {max(widths)} columns; write [[name for name, applies in zip(names, row) "
            "if applies] for row in table]"
        )


def _check_names(names: Sequence[str], where: str, known: Labels | None) -> None:
    for name in names:
        if names.count(name) > 1:
            raise DataError(
                f"{where}: expected every label once, got {name!r} {names.count(name)} times; "
                "keep one of them"
            )
        if known is not None and name not in known:
            raise DataError(f"{where}: {unknown('label', name, known.names)}")


# --- words ----------------------------------------------------------------------------------------


def sentences_of(given: object, what: str) -> list[Sentence]:
    """Sentences, each given as a list of words or as a `Sentence`.

    Raises:
        DataError: what `rows_of` refuses, a row that is no list of words, half a character.
    """
    sentences = []
    for row, words in enumerate(rows_of(given, "a list of sentences", "[words]"), start=1):
        sentence = words if isinstance(words, Sentence) else _sentence(words, f"{what}, row {row}")
        check_whole(sentence.text, f"{what}, row {row}")
        sentences.append(sentence)
    return sentences


def _sentence(words: object, where: str) -> Sentence:
    try:
        tokens = rows_of(words, "", "")
    except DataError:
        tokens = [None]
    if not all(isinstance(word, str) for word in tokens):
        raise DataError(
            f"{where}: expected a list of words, got {words!r:.80}; split it into "
            "words, or give texts to predict"
        )
    return Sentence.of_tokens(tokens)


def tag_lists_of(given: object, what: str) -> list[list[str]]:
    """Tags, a list for each sentence.

    Raises:
        DataError: what `rows_of` refuses, a row that is no list of tags, missing tags, ones that
            are no texts.
    """
    lists = []
    for row, tags in enumerate(rows_of(given, "a list of tags for each sentence", "[tags]"), 1):
        try:
            lists.append(rows_of(tags, "", ""))
        except DataError:
            raise DataError(
                f"{what}, row {row}: expected a list of tags, got {tags!r:.80}; give every word "
                "one tag, O outside of entities"
            ) from None
    _check_tags(lists, what)
    return lists


def _check_tags(lists: Sequence[Sequence[object]], what: str) -> None:
    places = [
        (tag, f"{what}, row {row}, word {place}")
        for row, tags in enumerate(lists, start=1)
        for place, tag in enumerate(tags, start=1)
    ]
    without = [(tag, where) for tag, where in places if _is_blank(tag)]
    if without:
        raise DataError(
            f"{without[0][1]}: expected a tag, got {without[0][0]!r}, and {len(without)} missing "
            "ones in all; write O outside of entities"
        )
    for tag, where in places:
        if not isinstance(tag, str):
            raise DataError(
                f"{where}: expected a tag as text, such as 'O' or 'B-person', got {tag!r:.80}; "
                "write its name"
            )
        check_whole(tag, where)
