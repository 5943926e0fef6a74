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

from ltuning.artifacts import hub, opened
from ltuning.calibration import probabilities_of
from ltuning.engines.job import identity
from ltuning.errors import ArtifactError, DataError, MissingExtraError
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
        ArtifactError: no whole classifier is there, or by then another one.
        DataError: one whose texts have several labels or are pairs, or of words.
        MissingExtraError: PySpark or pandas is not installed.
    """
    try:
        import pandas
        from pyspark.sql.functions import pandas_udf
    except ImportError as error:
        raise MissingExtraError("ltuning.spark", "spark") from error
    place = str(Path(hub.located(folder)).expanduser().absolute())
    artifact, sha256 = opened.read(place), identity(Path(place))
    task = artifact.config.task
    if not TASKS[task].one_of_each:
        raise DataError(
            f"expected a classifier that gives each text one label, got one of task '{task}' in "
            f"{folder}; use ltuning predict --engine"
        )
    if artifact.fields.get("pairs"):
        raise DataError(
            f"expected a classifier of single texts, got one that was trained on pairs in "
            f"{folder}; use ltuning predict --engine"
        )

    def predict(batches: Iterator[pandas.Series]) -> Iterator[pandas.DataFrame]:
        classifier = _loaded(place, backbone, sha256)
        for texts in batches:
            scores = classifier.scores(texts.fillna("").tolist())
            labels = classifier.predict_of(scores, None).tolist()
            chances = probabilities_of(scores, classifier.temperature_).max(1)
            names = [label_name(label) for label in labels]
            yield pandas.DataFrame({"predicted_label": names, "probability": chances})

    made: Callable[..., Any] = pandas_udf(SCHEMA)(predict)
    return made


@lru_cache(maxsize=4)
def _loaded(folder: str, backbone: str | None, sha256: str) -> Any:
    if identity(Path(folder)) != sha256:
        raise ArtifactError(
            f"the classifier in {folder} is another one than when the function was made; make it "
            "anew"
        )
    artifact = opened.read(folder)
    return TASKS[artifact.config.task].door().from_pretrained(artifact, backbone=backbone)
