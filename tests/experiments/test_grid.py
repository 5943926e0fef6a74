from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from ltuning.errors import ConfigError
from ltuning.experiments.cell_texts import check_data, data_path
from ltuning.experiments.grid import Grid

GRIDS = Path(__file__).parent.parent.parent / "grids"


def refusals(mapping: object, settings: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        Grid.from_dict(mapping, settings)
    return [str(problem) for problem in caught.value.problems]


def small(**changes: Any) -> dict[str, Any]:
    return {
        "backbones": ["builtin:minilm"],
        "data": {"reviews": {"path": "reviews"}},
        "methods": ["prefix"],
        **changes,
    }


# --- what is accepted


def test_lists_of_names_stand_for_mappings() -> None:
    grid = Grid.from_dict(small(methods=["lt-prefix", "peft-lora"]))
    assert grid.backbones["builtin:minilm"].name == "builtin:minilm"
    assert [entry.method for entry in grid.methods.values()] == ["lt-prefix", "peft-lora"]


def test_an_entry_may_have_a_name_of_its_own() -> None:
    entry = {"method": "lt-prefix", "options": {"method.rank": 8}}
    grid = Grid.from_dict(small(methods={"narrow": entry}, backbones={"bert": {"name": "x/y"}}))
    (cell,) = (cell for cell in grid.cells() if cell.seed == 0)
    assert (cell.method, cell.settings.method, cell.backbone) == ("narrow", "lt-prefix", "bert")
    assert cell.settings.backbone.name == "x/y"


def test_a_backbone_without_a_start_token_stays_one() -> None:
    grid = Grid.from_dict(small(backbones={"bare": {"name": "x/y", "start_token": "none"}}))
    assert Grid.from_dict(yaml.safe_load(grid.to_yaml())) == grid
    assert next(grid.cells()).config["backbone"]["start_token"] == "none"


def test_cells_are_told_as_results_of_before_have_them() -> None:
    """A later option is left out where it says what was so: those results still count."""
    cell = next(Grid.from_dict(small()).cells())
    assert {*cell.config["backbone"]} == {
        "name", "revision", "trust_remote_code", "dtype", "quantize", "device", "attention",
        "max_length", "max_branches", "cache_size",
    }  # fmt: skip
    assert {*cell.config["data"]} == {
        "path", "labels", "text_column", "text_pair_column", "label_column", "measure_on",
        "validation_fraction", "steps", "batch", "max_train", "max_validation", "max_test",
    }  # fmt: skip
    assert {*cell.config["entry"]} == {"method", "recipe", "learning_rate", "options"}
    backbones = {"small": {"name": "a/b", "gguf_file": "q4.gguf"}}
    grid = Grid.from_dict(small(backbones=backbones))
    assert next(grid.cells()).config["backbone"]["gguf_file"] == "q4.gguf"
    assert Grid.from_dict(grid.to_dict()) == grid


@pytest.mark.parametrize("path", sorted(GRIDS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_grid_that_ships_is_valid_and_reads_back(path: Path) -> None:
    grid = Grid.from_yaml(path)
    assert Grid.from_dict(yaml.safe_load(grid.to_yaml())) == grid
    assert grid.name == path.stem


def test_the_numbers_of_cells_of_the_grids_that_ship() -> None:
    numbers = {path.stem: len(list(Grid.from_yaml(path).cells())) for path in GRIDS.glob("*.yaml")}
    assert numbers == {
        "table1": 6 * 3 * 4 * 5,
        "ls": 2 * 3 * 6 * 3,
        "local": 3 * 7 * 3,
        "fewshot": 3 * 7 * 3 * 3,
        "labels": 2 * (5 + 1) * 5,
        "ablation": 2 * 13 * 3,
        "accuracy": 3 * 8 * 3,
        "accuracy-fewshot": 4 * 5,
        "intents": 2 * 5 * 3,
        "ls-local": 3 * 6 * 3,
        "tags": 3 * 3,
        "multilabel": 3 * 3,
        "rates": 39,
        "rates-fewshot": 27 * 2,
        "rates-decoder": 49 * 2,
        "rates-decoder-full": 20,
        "rates-decoder-tags": 14,
        "decoder": 3 * 11 * 3,
        "decoder-full": 3 * 10 * 3,
        "decoder-pooling": 3 * 3 * 3,
        "decoder-tags": 5 * 3,
        "decoder-fewshot": 2 * 4 * 3,
        "class-weights": 6 * (5 + 3),
    }


def test_a_data_set_may_have_seeds_of_its_own() -> None:
    data: dict[str, Any] = {"a": {"path": "a"}, "b": {"path": "b", "seeds": [0, 1, 7]}}
    grid = Grid.from_dict(small(data=data, seeds=[0]))
    found = [(cell.data, cell.seed) for cell in grid.cells() if cell.method == "prefix"]
    assert found == [("a", 0), ("b", 0), ("b", 1), ("b", 7)]
    assert Grid.from_dict(yaml.safe_load(grid.to_yaml())) == grid
    with_others = Grid.from_dict(small(data={"b": {"path": "b"}}, seeds=[0]))
    (own,) = (cell for cell in grid.cells() if (cell.data, cell.seed) == ("b", 0))
    (same,) = with_others.cells()
    assert own.config == same.config
    data["b"]["seeds"] = [1, 1]
    (problem,) = refusals(small(data=data))
    assert problem.startswith("data.b.seeds: expected seeds such as")


def test_label_texts_multiply_the_methods_that_read_them_only(make: Callable[..., Grid]) -> None:
    grid = make(label_texts=["names", "shuffled"], seeds=[0])
    assert [(cell.method, cell.label_text) for cell in grid.cells()] == [
        ("lt-prefix", "names"),
        ("lt-prefix", "shuffled"),
        ("prefix", None),
        ("logistic", None),
    ]


def test_where_nothing_describes_the_labels_their_names_do() -> None:
    mapping = small(methods=["lt-prefix"], label_texts=["names", "descriptions", "shuffled"])
    cells = Grid.from_dict({**mapping, "seeds": [0]}).cells()
    assert [cell.label_text for cell in cells] == ["names", "shuffled"]


def test_a_data_set_may_have_a_budget_of_its_own() -> None:
    data = {"a": {"path": "a", "steps": 7}, "b": {"path": "b", "batch": 3}}
    budget = {"steps": 5, "batch": 2}
    cells = Grid.from_dict(small(data=data, budget=budget, seeds=[0])).cells()
    budgets = [(cell.settings.budget.steps, cell.settings.budget.batch) for cell in cells]
    assert budgets == [(7, 2), (5, 3)]


def test_a_method_may_weigh_classes_and_say_nothing_else_of_the_data() -> None:
    options = {"data.class_weight": "balanced"}
    grid = Grid.from_dict(small(methods={"prefix": {"options": options}}))
    assert Grid.from_dict(yaml.safe_load(grid.to_yaml())) == grid
    assert refusals(small(methods={"prefix": {"options": {"data.shots": 4}}})) == [
        "methods.prefix.options.data.shots: expected a path such as method.rank or "
        "training.weight_decay, got data.shots"
    ]
    assert refusals(small(methods={"prefix": {"options": {"data.class_weight": "even"}}})) == [
        "methods.prefix.options.data.class_weight: expected one of 'balanced', got 'even'"
    ]


def test_files_of_different_cells_have_different_names() -> None:
    names = [f"owner/{letter}{'x' * 60}" for letter in "ab"]
    grid = Grid.from_dict(small(backbones=names, shots=[1, "all"], methods=["prefix", "prompt"]))
    stems = [cell.stem for cell in grid.cells()]
    assert len(set(stems)) == len(stems) == 2 * 2 * 2 * 3
    assert all("/" not in stem for stem in stems)


# --- what is refused: all of it at once


def test_the_choice_of_a_method_is_no_method_to_compare() -> None:
    assert refusals(small(methods=["auto", "prefix"])) == [
        "methods.auto: 'auto' takes one of the methods, for its own length of training; name those "
        "to be compared"
    ]


def test_all_problems_are_reported_at_once() -> None:
    problems = refusals(
        {
            "backbones": ["builtin:minilm"],
            "data": {
                "reviews": {"path": "reviews", "shots": 4},
                "news": {"labels": {"a": "same", "b": "same"}},
            },
            "methods": {
                "lt-prefx": {},
                "prefix": {"options": {"method.transform": "pooled", "training.max_steps": 3}},
                "peft-lora": {"options": {"rnk": 4}, "recipe": "paper"},
                "cosine": {"learning_rate": 1.0},
            },
            "seedz": [1],
            "budget": {"steps": 0, "epochs": 3},
            "shots": [4, 4],
            "label_texts": ["name"],
            "metric": "acuracy",
            "beside": ["prefx"],
        }
    )
    starts = [problem.split(": ")[0] for problem in problems]
    assert sorted(starts) == sorted(
        [
            "data.reviews.shots",
            "data.news.path",
            "data.news.labels",
            "methods.lt-prefx",
            "methods.prefix.options.method.transform",
            "methods.prefix.options.training.max_steps",
            "methods.peft-lora.options.rnk",
            "methods.peft-lora.recipe",
            "methods.cosine.learning_rate",
            "seedz",
            "budget.steps",
            "budget.epochs",
            "shots",
            "label_texts",
            "metric",
            "beside",
        ]
    )
    said = "\n".join(problems)
    assert "unknown method 'lt-prefx'" in said and "did you mean 'lt-prefix'?" in said
    assert "unknown option 'seedz'" in said and "did you mean 'seeds'?" in said
    assert "unknown option 'rnk'" in said and "use budget.steps of the grid instead" in said


def test_label_texts_that_no_method_reads() -> None:
    sentence = "label_texts: no method of the grid reads label texts; leave it out"
    assert refusals(small(methods=["prefix"], label_texts=["names"])) == [sentence]
    matched = {"probe": {"options": {"method.head": "match"}}, "prefix": {}}
    assert Grid.from_dict(small(methods=matched, label_texts=["names"])).label_texts == ["names"]


def test_dates_and_values_that_contain_themselves_are_refused() -> None:
    day = date(2024, 1, 1)
    itself: list[Any] = []
    itself.append(itself)
    assert refusals(small(label_texts=[day], seeds=[day, day], shots=itself, beside=[day])) == [
        "seeds: expected an integer from 0 to 4294967295, got datetime.date(2024, 1, 1)",
        "seeds: expected an integer from 0 to 4294967295, got datetime.date(2024, 1, 1)",
        "shots: expected an integer of 1 or more, got [[...]]",
        "label_texts: unknown label text 'datetime.date(2024, 1, 1)': expected one of 'names', "
        "'descriptions', 'shuffled', 'random-tokens', 'single-token'",
        "beside: expected a text that is not empty, got the date 2024-01-01 (put it in quotes)",
    ]


@pytest.mark.parametrize("missing", ["backbones", "data", "methods"])
def test_the_three_axes_are_needed(missing: str) -> None:
    mapping = small()
    del mapping[missing]
    assert refusals(mapping) == [f"{missing}: missing; name one or more"]


@pytest.mark.parametrize("value", [None, [], {}, "lt-prefix", ["prefix", "prefix"], [3]])
def test_other_things_than_names_are_refused(value: object) -> None:
    (problem,) = refusals(small(methods=value))
    assert problem.startswith("methods: expected ")


def test_a_grid_that_is_no_mapping_is_refused() -> None:
    assert refusals(["prefix"])[0].startswith("grid: expected a mapping with backbones, data")


def test_settings_win_and_are_checked() -> None:
    grid = Grid.from_dict(small(), ("budget.steps=9", "seeds=[4]", "search.trials=2"))
    assert (grid.budget.steps, grid.seeds) == (9, [4])
    assert grid.search is not None and grid.search.trials == 2
    (problem,) = refusals(small(), ("budget.stps=9",))
    assert problem.startswith("budget.stps: unknown option 'stps'")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file"):
        Grid.from_yaml(tmp_path / "none.yaml")


def test_data_that_is_not_there_is_refused_before_anything_runs(data: Path) -> None:
    sets = {
        "toy": {"path": "toy"},
        "gone": {"path": "gone"},
        "hub": {"path": "owner/name:config"},
        "pairs": {"path": "pairs"},
        "file": {"path": "toy/train.csv"},
    }
    with pytest.raises(ConfigError) as caught:
        check_data(Grid.from_dict(small(data=sets)), data)
    problems = {problem.path: problem.message for problem in caught.value.problems}
    assert problems.keys() == {"data.gone.path", "data.pairs.path", "data.file.path"}
    assert "say with --data where" in problems["data.gone.path"]
    assert "set measure_on: validation or test" in problems["data.pairs.path"]


def test_a_data_folder_that_cannot_be_listed_is_said(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object) -> list[str]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.listdir", refuse)
    with pytest.raises(ConfigError) as caught:
        check_data(Grid.from_dict(small(data={"reviews": {"path": str(data)}})), None)
    assert [str(problem) for problem in caught.value.problems] == [
        f"data.reviews.path: the folder {data} cannot be listed (Permission denied)"
    ]


@pytest.mark.parametrize("path", ["~nosuchuser/reviews", "x" * 300])
def test_a_path_that_no_folder_can_have_is_said(path: str) -> None:
    with pytest.raises(ConfigError, match=f"data.reviews.path: expected a folder, got no '{path}'"):
        check_data(Grid.from_dict(small(data={"reviews": {"path": path}})), None)


def test_data_folders_are_relative_to_the_data_folder_or_absolute(data: Path) -> None:
    sets = {"near": {"path": "toy"}, "far": {"path": str(data / "pairs")}, "hub": {"path": "a/b"}}
    grid = Grid.from_dict(small(data=sets))
    found = {name: data_path(one, data) for name, one in grid.data.items()}
    assert found == {"near": str(data / "toy"), "far": str(data / "pairs"), "hub": "a/b"}


def test_data_sets_whose_label_texts_no_method_reads() -> None:
    described = {"reviews": {"path": "reviews", "labels": {"pos": "a good one", "neg": "neg"}}}

    def unread(methods: Any, data: Any = described) -> list[str]:
        return Grid.from_dict(small(methods=methods, data=data)).unread_texts

    assert unread(["probe", "tfidf"]) == ["reviews"]
    for methods in (
        ["probe", "lt-prefix"],
        ["cosine"],
        {"prefix": {"options": {"method.start": "text"}}},
    ):
        assert unread(methods) == []
    assert unread(["probe"], {"reviews": {"path": "reviews", "labels": ["pos", "neg"]}}) == []
