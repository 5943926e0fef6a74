"""What requests and answers hold."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Label = str | bool | int | float


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PredictRequest(_Body):
    """Texts, and what is to be said of them."""

    texts: Annotated[
        list[str | tuple[str, str]],
        Field(
            min_length=1,
            description="Texts, or pairs of texts for a classifier that reads pairs.",
        ),
    ]
    top_k: Annotated[
        int | None,
        Field(
            ge=1,
            le=2**31,
            strict=True,
            description="Labels with a probability, the most probable first; null is all of them.",
        ),
    ] = None
    abstain: Annotated[
        float | None,
        Field(
            ge=0,
            le=1,
            allow_inf_nan=False,
            strict=True,
            description="From which probability on a label is said; below, the label is null.",
        ),
    ] = None


def _addressable(name: str) -> str:
    """A name is part of the address that takes its label out again: clients fold these parts."""
    if {".", ".."} & {*name.split("/")}:
        raise ValueError("expected a name without . and .. between its slashes")
    return name


_NewName = Annotated[
    str,
    Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$"),
    AfterValidator(_addressable),
]


class NewLabels(_Body):
    """Labels and the texts that stand for them."""

    labels: Annotated[dict[_NewName, str | list[str]], Field(min_length=1, max_length=256)]


class Probability(BaseModel):
    """A label with its probability."""

    label: Label
    probability: float


class Entity(BaseModel):
    """Words of a text, by their characters."""

    start: int
    end: int
    text: str
    type: str
    probability: float


class Prediction(BaseModel):
    """What is said of a text: a label, labels, or entities, by the task of the classifier."""

    label: Annotated[
        Label | None,
        Field(description="The most probable label, that of no label, or null below `abstain`."),
    ] = None
    labels: Annotated[
        list[Label] | None, Field(description="The labels that apply, where several may.")
    ] = None
    entities: Annotated[list[Entity] | None, Field(description="Of a tagger.")] = None
    probabilities: list[Probability] | None = None
    truncated: Annotated[
        bool | None, Field(description="Whether the end of the text was not read.")
    ] = None


class PredictResponse(BaseModel):
    """A prediction for each text, in their order."""

    classifier: str
    predictions: list[Prediction]


class Failure(BaseModel):
    """Why there is no answer, in words."""

    error: str
