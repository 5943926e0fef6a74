"""A classifier as a function of Spark's columns.

::

    from ltuning.spark import predict_udf

    frame.withColumn("said", predict_udf("runs/messages")("text")).select("said.*")
"""

# No `from __future__ import annotations`: Spark reads the types of the function that it is given.
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from ltuning.artifacts import opened
from ltuning.calibration import probabilities_of
from ltuning.errors import DataError, MissingExtraError
from ltuning.tasks.table import TASKS
from ltuning.values import label_name

SCHEMA = "predicted_label string, probability double"


def predict_udf(folder: str | Path, *, backbone: str | None = None) -> Callable[..., Any]:
    """A pandas UDF that gives a column of texts their labels, as `ltuning predict` does.

    Each Python worker of Spark loads the classifier once. The folder, and its backbone, have to be
    there on every machine under the same path.

    Args:
        folder: of a trained classifier that gives each text one label.
        backbone: where the backbone is now; None = where it was.

    Returns:
        A function of a column of strings; it gives a struct of `predicted_label` (string) and
        `probability` (double). Null counts as a text without a word.

    Raises:
        ArtifactError: no whole classifier is there.
        DataError: one whose texts have several labels, or of words.
        MissingExtraError: PySpark or pandas is not installed.
    """
    try:
        import pandas
        from pyspark.sql.functions import pandas_udf
    except ImportError as error:
        raise MissingExtraError("ltuning.spark", "spark") from error
    place = str(Path(folder).expanduser().absolute())
    task = opened.read(place).config.task
    if not TASKS[task].one_of_each:
        raise DataError(
            f"expected a classifier that gives each text one label, got one of task '{task}' in "
            f"{folder}; use ltuning predict --engine"
        )

    def predict(batches: Iterator[pandas.Series]) -> Iterator[pandas.DataFrame]:
        classifier = _loaded(place, backbone)
        for texts in batches:
            scores = classifier.scores(texts.fillna("").tolist())
            labels = classifier.predict_of(scores, None).tolist()
            chances = probabilities_of(scores, classifier.temperature_).max(1)
            names = [label_name(label) for label in labels]
            yield pandas.DataFrame({"predicted_label": names, "probability": chances})

    made: Callable[..., Any] = pandas_udf(SCHEMA)(predict)
    return made


@lru_cache(maxsize=1)
def _loaded(folder: str, backbone: str | None) -> Any:
    artifact = opened.read(folder)
    return TASKS[artifact.config.task].door().from_pretrained(artifact, backbone=backbone)
