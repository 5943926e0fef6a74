from __future__ import annotations

import pytest
import torch

from ltuning.backbones.batch_sizes import at_once, by_length, pieces

CPU, GPU = torch.device("cpu"), torch.device("cuda")
LENGTHS = [7, 300, 30, 7, 4000, 31, 5, 250, 30]


@pytest.mark.parametrize("device", [CPU, GPU])
@pytest.mark.parametrize("most", [1, 2, 5, 100])
@pytest.mark.parametrize("per_text", [1, 3])
def test_every_row_is_in_one_batch_and_no_batch_is_longer_than_allowed(
    device: torch.device, most: int, per_text: int
) -> None:
    batches = by_length(LENGTHS, most, device, per_text)
    rows = [row for batch in batches for row in batch]
    assert sorted(rows) == list(range(len(LENGTHS)))
    assert [LENGTHS[row] for row in rows] == sorted(LENGTHS)
    assert all(1 <= len(batch) <= most for batch in batches)


def test_a_cpu_takes_few_long_texts_and_many_short_ones() -> None:
    lengths = [500] * 10 + [8] * 100
    assert [len(batch) for batch in by_length(lengths, 64, CPU)] == [64, 36, 4, 4, 2]
    assert [len(batch) for batch in by_length(lengths, 64, CPU, 4)] == [64, 36, *[1] * 10]
    assert [len(batch) for batch in by_length(lengths, 64, GPU)] == [64, 46]


def test_a_text_longer_than_all_that_runs_together_still_runs() -> None:
    assert at_once(100_000, 8, CPU) == 1 and at_once(100_000, 8, GPU) == 8
    assert at_once(0, 8, CPU) == 8
    assert by_length([], 8, CPU) == []


def test_pieces_follow_each_other_and_none_is_larger_than_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert [*pieces([])] == []
    assert [*pieces([10] * 5000)] == [range(4096), range(4096, 5000)]
    monkeypatch.setattr("ltuning.backbones.batch_sizes._CHARACTERS", 100)
    assert [*pieces([60, 40, 1, 500, 0, 100, 7])] == [
        range(2), range(2, 3), range(3, 4), range(4, 6), range(6, 7),
    ]  # fmt: skip
