"""What Spark is given: a function of columns."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from ltuning.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from ..conftest import Toy


@pytest.fixture
def functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """PySpark's `pandas_udf`, as far as it is used: it keeps the function."""
    module = ModuleType("pyspark.sql.functions")
    module.pandas_udf = lambda schema: lambda function: (schema, function)  # type: ignore[attr-defined]
    for name in ("pyspark", "pyspark.sql"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_labels_and_probabilities_are_those_of_predict(
    functions: None, bert: Any, toy: Toy, classifier: Callable[..., Any], tmp_path: Path
) -> None:
    pandas = pytest.importorskip("pandas")
    from ltuning.spark import predict_udf

    door = classifier(bert, "probe", steps=1).fit(toy.texts[:12], toy.labels[:12])
    door.save_pretrained(tmp_path / "run")
    schema, function = predict_udf(tmp_path / "run")  # type: ignore[misc]
    assert schema == "predicted_label string, probability double"
    batches = [toy.test_texts[:3], [*toy.test_texts[3:5], None]]
    found = pandas.concat(function(map(pandas.Series, batches)), ignore_index=True)
    texts = [*toy.test_texts[:5], ""]
    assert found["predicted_label"].tolist() == list(door.predict(texts))
    highest = door.predict_proba(texts).max(1).tolist()
    assert found["probability"].tolist() == pytest.approx(highest, abs=1e-5)


def test_other_tasks_are_refused(functions: None, bert: Any, toy: Toy, tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    from ltuning import MultilabelClassifier
    from ltuning.spark import predict_udf

    door = MultilabelClassifier(bert, toy.label_texts, "probe", steps=1)
    door.fit(toy.texts[:12], [[label] for label in toy.labels[:12]])
    door.save_pretrained(tmp_path / "run")
    with pytest.raises(DataError, match="gives each text one label, got one of task 'multilabel'"):
        predict_udf(tmp_path / "run")


def test_without_pyspark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ltuning.spark import predict_udf

    monkeypatch.setitem(sys.modules, "pyspark.sql.functions", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ltuning\[spark\]'"):
        predict_udf(tmp_path)
