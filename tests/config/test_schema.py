from __future__ import annotations

import copy
import dataclasses
import subprocess
import sys
import tracemalloc
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ltuning.config import (
    BackboneOptions,
    Config,
    DataOptions,
    MethodOptions,
    StoppingOptions,
    layer_numbers,
    yaml,
)
from ltuning.errors import ConfigError


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "config.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def refusals(mapping: object, changes: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        Config.from_dict(mapping, changes)  # type: ignore[arg-type]
    return [str(problem) for problem in caught.value.problems]


def file_refusals(path: Path, changes: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        Config.from_yaml(path, changes)
    return [str(problem) for problem in caught.value.problems]


# ---------------------------------------------------------------- what is accepted


def test_the_defaults():
    assert Config.from_dict({}) == Config()
    assert Config().to_dict() == {
        "task": "classes",
        "backbone": {
            "name": "builtin:minilm",
            "gguf_file": None,
            "revision": None,
            "trust_remote_code": False,
            "dtype": "auto",
            "quantize": None,
            "device": "auto",
            "attention": "auto",
            "start_token": "auto",
            "max_length": None,
            "max_branches": 256,
            "cache_size": 2.0,
        },
        "labels": None,
        "method": {
            "name": "lt-prefix",
            "recipe": "default",
            "labels": None,
            "label_tokens": None,
            "transform": None,
            "start": None,
            "head": None,
            "objective": None,
            "pooling": None,
            "rank": None,
            "first_layer": None,
            "num_tokens": None,
            "negatives": None,
            "alpha": None,
            "dropout": None,
            "merge": None,
            "bias": None,
            "unmask_layers": None,
        },
        "data": {
            "path": None,
            "text_column": None,
            "text_pair_column": None,
            "label_column": None,
            "oos_label": None,
            "shots": None,
            "validation_fraction": 0.1,
            "empty_texts": "refuse",
            "missing_labels": "refuse",
            "class_weight": None,
            "long_texts": "cut",
            "delimiter": None,
            "encoding": None,
        },
        "stopping": {"patience": "auto", "metric": "loss", "seconds": None},
        "calibrate": True,
        "seed": 0,
        "training": {},
    }


@pytest.mark.parametrize(
    ("given", "numbers"),
    [
        ("all", {0, 1, 2, 3, 4, 5}),
        ("none", set()),
        ("2-4", {2, 3, 4}),
        ("0,2, 5", {0, 2, 5}),
        (3, {3}),
        ([1, 2], {1, 2}),
        ("0-1,4", {0, 1, 4}),
    ],
)
def test_layers_are_named_in_words(given, numbers):
    words = Config.from_dict({"method": {"unmask_layers": given}}).method.unmask_layers
    assert layer_numbers(words, 6) == numbers


def test_layers_that_are_not_there_are_never_listed():
    tracemalloc.start()
    try:
        words = Config.from_dict({"method": {"unmask_layers": "0-1000000"}}).method.unmask_layers
        with pytest.raises(ConfigError) as caught:
            layer_numbers(words, 6)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert [str(problem) for problem in caught.value.problems] == [
        "method.unmask_layers: expected layers below 6, the backbone's layers, got 1000000"
    ]


@pytest.mark.parametrize(
    ("mapping", "changes", "method"),
    [
        ({"task": "tags"}, (), "ls-lora"),
        ({}, ("task=tags",), "ls-lora"),
        ({"task": "classes", "method": {"rank": 4}}, ("task=tags",), "ls-lora"),
        ({"task": "tags", "method": None}, ("task=classes",), "lt-prefix"),
        ({"task": "tags"}, ("method.name=probe",), "probe"),
        ({"task": "tags", "method": {"name": "lt-prefix"}}, (), "lt-prefix"),
    ],
)
def test_a_task_has_its_default_method_wherever_it_is_named(mapping, changes, method, tmp_path):
    assert Config.from_dict(mapping, changes).method.name == method
    path = write(tmp_path, yaml.dump(mapping))
    assert Config.from_yaml(path, changes).method.name == method


def test_a_section_without_options_has_the_defaults(tmp_path):
    path = write(tmp_path, "backbone:\nmethod:\ntraining:\nlabels:\nseed: 3\n")
    assert Config.from_yaml(path) == Config(seed=3)


def test_a_file_with_a_byte_order_mark_and_a_merge(tmp_path):
    text = "training: &t {lr: 1.0e-3}\nmethod: {rank: 4}\n"
    path = write(tmp_path, b"\xef\xbb\xbf" + text.encode())
    assert Config.from_yaml(path).method.rank == 4
    path = write(tmp_path, "training:\n  a: &a {x: 1, y: 2}\n  b: {<<: *a, y: 3}\n")
    assert Config.from_yaml(path).training == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}


def test_an_integer_is_accepted_for_a_number_and_becomes_one():
    with pytest.raises(ConfigError):
        Config.from_dict({"data": {"validation_fraction": 1}})
    config = Config.from_dict(
        {"data": {"validation_fraction": np.float32(0.5)}, "seed": np.int64(7)}
    )
    assert (type(config.data.validation_fraction), type(config.seed)) == (float, int)


def test_a_config_made_by_hand_is_checked_and_brought_to_form():
    config = Config(labels=["card_arrival", "b"], training={"betas": (0.9, 0.99)})  # type: ignore[arg-type]
    assert config.labels == {"card_arrival": ["card arrival"], "b": ["b"]}
    assert config.training == {"betas": [0.9, 0.99]}
    with pytest.raises(ConfigError, match="method.rank: expected an integer of 1 or more, got 0"):
        Config(method=MethodOptions(rank=0))
    with pytest.raises(ConfigError, match="stopping.metric: expected one of 'loss', "):
        dataclasses.replace(config, stopping=StoppingOptions(metric="f2"))


def test_labels_take_the_forms_of_a_labels_file():
    forms = [["a", "b_c"], ("a", "b_c"), {"a": "a", "b_c": "b c"}, {"a": ["a"], "b_c": ["b c"]}]
    configs = [Config.from_dict({"labels": labels}) for labels in forms]
    assert [config.labels for config in configs] == [{"a": ["a"], "b_c": ["b c"]}] * 4


def test_a_config_shares_nothing_with_what_it_came_from():
    mapping = {"labels": {"a": ["x"], "b": ["y"]}, "training": {"deep": {"list": [1]}}}
    untouched = copy.deepcopy(mapping)
    config = Config.from_dict(MappingProxyType(mapping), ["training.deep.more=2", "labels.c=z"])
    config.training["deep"]["list"].append(2)
    config.to_dict()["labels"]["a"].append("z")
    assert mapping == untouched
    assert config.labels == {"a": ["x"], "b": ["y"], "c": ["z"]}


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("mapping", "sentence"),
    [
        (
            {"method": {"name": "lt-prefx"}},
            "method.name: expected one of 'prefix', 'prompt', 'lt-prefix', 'lt-prompt', "
            "'ls-lora', 'ls-unmask', 'probe', 'full', 'auto', got 'lt-prefx'; did you mean "
            "'lt-prefix'?",
        ),
        (
            {"method": {"pooling": "zebra"}},
            "method.pooling: expected one of 'cls', 'mean', 'max', 'last', got 'zebra'",
        ),
        (
            {"backbone": {"max_length": 2**64}},
            "backbone.max_length: expected an integer of 64 bits at most, got 18446744073709551616",
        ),
        (
            {"method": {"unmask_layers": "3-1"}},
            "method.unmask_layers: expected all, none, or layers counted from 0 such as 8-31 or "
            "0,2,4, got '3-1'",
        ),
        (
            {"method": {"dropout": 1}},
            "method.dropout: expected a number from 0 to below 1, got 1",
        ),
        (
            {"method": {"recipe": None}},
            "method.recipe: expected one of 'default', 'paper', got nothing",
        ),
        (
            {"backbone": {"dtype": 16}},
            "backbone.dtype: expected one of 'auto', 'float32', 'bfloat16', 'float16', got 16",
        ),
        (
            {"backbone": {"quantize": 4}},
            "backbone.quantize: expected one of '8bit', '4bit', got 4",
        ),
        (
            {"backbone": {"quantize": "4bit", "device": "cpu"}},
            "backbone.quantize: expected a CUDA device for 4bit, got 'cpu'; leave one of them out",
        ),
        (
            {"backbone": {"trust_remote_code": "yes"}},
            "backbone.trust_remote_code: expected true or false, got 'yes'",
        ),
        (
            {"backbone": {"trust_remote_code": None}},
            "backbone.trust_remote_code: expected true or false, got nothing",
        ),
        (
            {"stopping": {"metric": "acuracy"}},
            "stopping.metric: expected one of 'loss', 'accuracy', 'macro_f1', 'mcc', 'f1', "
            "'micro_f1', got 'acuracy'; did you mean 'accuracy'?",
        ),
        ({"method": {"rank": "x"}}, "method.rank: expected an integer of 1 or more, got 'x'"),
        ({"method": {"rank": 0}}, "method.rank: expected an integer of 1 or more, got 0"),
        ({"method": {"rank": 1.0}}, "method.rank: expected an integer of 1 or more, got 1.0"),
        ({"method": {"rank": True}}, "method.rank: expected an integer of 1 or more, got True"),
        (
            {"method": {"first_layer": -1}},
            "method.first_layer: expected an integer of 0 or more, got -1",
        ),
        (
            {"method": {"num_tokens": 0}},
            "method.num_tokens: expected an integer of 1 or more, got 0",
        ),
        (
            {"method": {"negatives": -1}},
            "method.negatives: expected an integer of 0 or more, got -1",
        ),
        (
            {"backbone": {"cache_size": -1}},
            "backbone.cache_size: expected a number of 0 or more, got -1",
        ),
        (
            {"backbone": {"max_length": 0}},
            "backbone.max_length: expected an integer of 1 or more, got 0",
        ),
        ({"data": {"shots": 0}}, "data.shots: expected an integer of 1 or more, got 0"),
        (
            {"stopping": {"patience": "aut"}},
            "stopping.patience: expected one of 'auto', got 'aut'; did you mean 'auto'?",
        ),
        (
            {"stopping": {"patience": 0}},
            "stopping.patience: expected an integer of 1 or more, got 0",
        ),
        ({"seed": -1}, "seed: expected an integer from 0 to 4294967295, got -1"),
        ({"seed": 2**32}, "seed: expected an integer from 0 to 4294967295, got 4294967296"),
        ({"seed": None}, "seed: expected an integer from 0 to 4294967295, got nothing"),
        *[
            (
                {"data": {"validation_fraction": fraction}},
                f"data.validation_fraction: expected a number from 0 to below 1, got {fraction!r}",
            )
            for fraction in (1, -0.5, 1.5, float("nan"), "0.1", False)
        ],
        ({"backbone": {"name": ""}}, "backbone.name: expected a text that is not empty, got ''"),
        (
            {"backbone": {"name": None}},
            "backbone.name: expected a text that is not empty, got nothing",
        ),
        (
            {"data": {"text_column": 1}},
            "data.text_column: expected a text that is not empty, got the number 1 "
            "(put it in quotes)",
        ),
        (
            {"data": {"text_column": False}},
            "data.text_column: expected a text that is not empty, got False (YAML reads yes, no, "
            "on, off, true and false as booleans: put it in quotes)",
        ),
        (
            {"method": "lt-prefix"},
            "method: expected a section of options such as method.name, got 'lt-prefix'",
        ),
        (
            {"task": "tags", "method": []},
            "method: expected a section of options such as method.name, got []",
        ),
        ({"training": [1]}, "training: expected a section of options, got [1]"),
        (
            {"training": {1: 2}},
            "training: expected texts as names of options, got the number 1 (put it in quotes)",
        ),
        (
            {"training": {"deep": [{"x": {1, 2}}]}},
            "training.deep.x: expected a text, a number, a boolean, a list or a mapping, "
            "got {1, 2}",
        ),
        (
            {"sede": 1},
            "sede: unknown option 'sede': expected one of 'task', 'backbone', 'labels', 'method', "
            "'data', 'stopping', 'calibrate', 'seed', 'training'; did you mean 'seed'?",
        ),
        (
            {"stopping": {"zebra": 1}},
            "stopping.zebra: unknown option 'zebra': expected one of 'patience', 'metric', "
            "'seconds'",
        ),
        (
            {"stopping": {1: 1}},
            "stopping.1: unknown option 1: expected one of 'patience', 'metric', 'seconds'",
        ),
        (
            {"labels": "labels.yaml"},
            "labels: expected a list of names or a mapping of names to texts, got 'labels.yaml'",
        ),
        ({"labels": ["a", "a"]}, "labels: the label 'a' stands twice"),
        (
            {"labels": {"a": 1}},
            "labels: expected a text or a list of texts for the label 'a', got the number 1 "
            "(put it in quotes)",
        ),
        (
            {"labels": {"a": []}},
            "labels: the label 'a' has an empty list of texts: give it one or more",
        ),
        (
            [1],
            "configuration: expected a mapping of options ('task', 'backbone', 'labels', 'method', "
            "'data', 'stopping', 'calibrate', 'seed', 'training'), got [1]",
        ),
    ],
)
def test_what_is_refused_and_why(mapping: object, sentence: str):
    assert refusals(mapping) == [sentence]


def test_a_training_section_that_contains_itself():
    training: dict[str, object] = {}
    training["x"] = training
    assert refusals({"training": training}) == [
        "training: contains itself, or is nested too deeply"
    ]


def test_every_problem_comes_at_once_in_the_order_of_the_options():
    mapping = {
        "zebra": 1,
        "seed": "x",
        "method": {"rnak": 4, "rank": 0, "name": "lora"},
        "labels": [1, "a", "a"],
    }
    assert [
        sentence.split(":")[0] for sentence in refusals(mapping, ("nothing", "data.shots=0"))
    ] == [
        "--set",
        "labels",
        "labels",
        "method.name",
        "method.rank",
        "method.rnak",
        "data.shots",
        "seed",
        "zebra",
    ]


def test_the_message_lists_the_problems():
    with pytest.raises(ConfigError) as caught:
        Config.from_dict({"seed": -1, "method": {"rank": 0}})
    assert str(caught.value) == (
        "2 problems in the configuration:\n"
        "  method.rank: expected an integer of 1 or more, got 0\n"
        "  seed: expected an integer from 0 to 4294967295, got -1"
    )


# ---------------------------------------------------------------- YAML


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("method:\n  rank: 3\n  name: prefix\n  rank: 4\n", "line 4: the key 'rank' stands twice"),
        ("seed: 1\nmethod: [a\n", "line 3: while parsing a flow sequence, expected ',' or ']'"),
        ("a: b: c\n", "line 1: mapping values are not allowed here"),
        ("seed: 1\n---\nseed: 2\n", "line 2: expected a single document in the stream, but found"),
        ("a: 2024-13-45\n", "not readable as YAML: month must be in 1..12"),
        ("a: \x00\n", "not readable as YAML: unacceptable character #x0000"),
        ("a: !!python/name:os.system\n", "line 1: could not determine a constructor for the tag"),
        ("? [a]\n: 1\n", "line 1: while constructing a mapping, found unhashable key"),
        ("[" * 1500, "nested too deeply"),
        (b"a: sch\xf6n\n", "not UTF-8 at byte 7: save the file as UTF-8"),
        ("", "expected a mapping of options ('task', 'backbone', "),
        ("- a\n", "expected a mapping of options ('task', 'backbone', "),
    ],
)
def test_a_file_that_is_refused_is_named(tmp_path, text, sentence):
    path = write(tmp_path, text)
    (message,) = file_refusals(path)
    assert message.startswith(f"{path}: {sentence}")


def test_a_missing_file_and_a_folder(tmp_path):
    path = tmp_path / "absent.yaml"
    assert file_refusals(path) == [f"{path}: no such file"]
    assert file_refusals(tmp_path) == [f"{tmp_path}: cannot be read: Is a directory"]


def test_a_broken_file_and_broken_settings_are_reported_together(tmp_path):
    path = tmp_path / "absent.yaml"
    assert file_refusals(path, ("nothing", "seed=x")) == [
        f"{path}: no such file",
        "--set: expected OPTION=VALUE such as method.rank=64, got 'nothing'",
        "seed: expected an integer from 0 to 4294967295, got 'x'",
    ]


def test_yaml_text_is_in_the_order_of_the_fields():
    lines = Config(labels={"b": ["x"], "a": ["ü"]}).to_yaml().splitlines()
    sections = [line.split(":")[0] for line in lines if not line.startswith(" ")]
    assert sections == [item.name for item in dataclasses.fields(Config)]
    assert lines[14:19] == ["labels:", "  b:", "  - x", "  a:", "  - ü"]


def test_texts_that_look_like_numbers_stay_texts(tmp_path):
    looks = {"a": "1e-3", "b": "yes", "c": "1", "d": "2024-01-01", "e": "~", "f": ".5E3"}
    config = Config.from_dict({"training": looks})
    assert Config.from_yaml(write(tmp_path, config.to_yaml())).training == looks


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("-1.5e3", -1500.0),
        (".5e+1", 5.0),
        ("0.1", 0.1),
        ("64", 64),
        ("true", True),
        ("'1e-3'", "1e-3"),
        ("e-3", "e-3"),
        ("1e", "1e"),
        ("", None),
        ("a=b", "a=b"),
        ("[1, 2e0]", [1, 2.0]),
        ("{a: 1}", {"a": 1}),
    ],
)
def test_values_of_settings_are_yaml(text, value):
    found = Config().with_set([f"training.option={text}"]).training["option"]
    assert (found, type(found)) == (value, type(value))


def test_settings_change_a_copy():
    config = Config.from_dict({"labels": ["a", "b"], "training": {"deep": {"x": 1}}})
    changed = config.with_set(
        [
            "method.rank=64",
            "data.validation_fraction=2e-1",
            "seed = 5",
            "labels=[c, d]",
            "training.deep.y=1e-3",
            "training.deep.x=2",
            "stopping={patience: 2}",
            "backbone.name=builtin:minilm",
        ]
    )
    assert changed == Config(
        labels={"c": ["c"], "d": ["d"]},
        method=MethodOptions(rank=64),
        data=DataOptions(validation_fraction=0.2),
        stopping=StoppingOptions(patience=2),
        seed=5,
        training={"deep": {"x": 2, "y": 1e-3}},
    )
    assert config == Config(labels={"a": ["a"], "b": ["b"]}, training={"deep": {"x": 1}})
    assert changed.with_set(["method.rank="]).method.rank is None


def test_a_setting_mends_what_the_file_has_wrong(tmp_path):
    path = write(tmp_path, "method: {rank: 0}\nseed: 1\n")
    assert Config.from_yaml(path, ["method.rank=8"]).method.rank == 8


def test_every_setting_that_is_wrong_is_reported():
    changes = ("method.rank", "=3", "a..b=1", "", "data.path=[a", "seed.x=1", "method.rnak=1")
    assert refusals({"seed": 1, "data": 3}, changes) == [
        *[
            f"--set: expected OPTION=VALUE such as method.rank=64, got {setting!r}"
            for setting in changes[:4]
        ],
        "data.path: cannot read the value '[a' (line 1: while parsing a flow sequence, expected "
        "',' or ']', but got '<stream end>'): put it in quotes",
        "seed.x: 'seed' is not a section of options but 1",
        "method.rnak: unknown option 'rnak': expected one of 'name', 'recipe', "
        "'labels', 'label_tokens', 'transform', "
        "'start', 'head', 'objective', 'pooling', 'rank', 'first_layer', 'num_tokens', "
        "'negatives', 'alpha', 'dropout', 'merge', 'bias', 'unmask_layers'; did you mean "
        "'rank'?",
        "data: expected a section of options such as data.path, got 3",
    ]


def test_settings_reach_into_sections_made_by_hand():
    sections = {"method": MethodOptions(name="prefix")}
    config = Config.from_dict(sections, ["method.rank=3"])
    assert config.method == MethodOptions(name="prefix", rank=3)


def test_nothing_heavy_is_imported():
    code = (
        "import sys, ltuning.config, ltuning.labels, ltuning.suggestions\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pandas', 'pyarrow', 'sklearn', 'numpy'}\n"
        "sys.exit(', '.join(heavy & sys.modules.keys()) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# ---------------------------------------------------------------- properties


texts = st.text(min_size=1)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.sampled_from(
        ["1e-3", "1E5", "yes", "~", "0x1", "1:30", "<<", "=", "a\x85b", "\u2028", "\ufeff"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
from_one = st.none() | st.integers(1, 10**9)
from_zero = st.none() | st.integers(0, 10**9)
configs = st.builds(
    Config,
    backbone=st.builds(
        BackboneOptions,
        name=texts,
        revision=st.none() | texts,
        trust_remote_code=st.booleans(),
        quantize=st.none() | st.sampled_from(["8bit", "4bit"]),
        device=texts.filter(lambda device: device != "cpu"),
        max_length=from_one,
    ),
    labels=st.none()
    | st.lists(st.text(), unique=True, max_size=4)
    | st.dictionaries(st.text(), st.text() | st.lists(st.text(), min_size=1, max_size=3)),
    method=st.builds(
        MethodOptions,
        rank=from_one,
        first_layer=from_zero,
        num_tokens=from_one,
        negatives=from_zero,
    ),
    data=st.builds(
        DataOptions,
        path=st.none() | texts,
        text_column=st.none() | texts,
        text_pair_column=st.none() | texts,
        label_column=st.none() | texts,
        shots=from_one,
        validation_fraction=st.floats(0, 1, exclude_min=True, exclude_max=True),
    ),
    stopping=st.builds(
        StoppingOptions,
        patience=from_one | st.just("auto"),
        metric=st.sampled_from(["loss", "accuracy", "macro_f1", "mcc", "f1", "micro_f1"]),
    ),
    seed=st.integers(0, 2**32 - 1),
    training=st.dictionaries(st.text(), plain, max_size=4),
)


@settings(deadline=None)
@given(configs)
def test_round_trip_through_a_dictionary(config):
    assert Config.from_dict(config.to_dict()) == config
    assert config.with_set([]) == config


@settings(deadline=None)
@given(config=configs)
def test_round_trip_through_yaml(tmp_path_factory, config):
    path = write(tmp_path_factory.getbasetemp(), config.to_yaml())
    assert Config.from_yaml(path) == config
    assert Config.from_yaml(path).to_yaml() == config.to_yaml()


@settings(deadline=None)
@given(plain | st.dictionaries(st.sampled_from(["method", "data", "labels", "seed"]), plain))
def test_any_plain_value_makes_a_config_or_a_config_error(value):
    try:
        Config.from_dict(value)
    except ConfigError as error:
        assert error.problems


@settings(deadline=None)
@given(st.lists(st.text() | st.from_regex(r"[a-z]+(\.[a-z]+)?=.*"), max_size=3))
def test_any_settings_make_a_config_or_a_config_error(changes):
    try:
        Config().with_set(changes)
    except ConfigError as error:
        assert error.problems
