from __future__ import annotations

import pytest

from ltuning.exporting.int8 import Cost, cost_of


def test_the_cost_compares_answers_as_a_whole() -> None:
    truth = [{"food"}, set(), {"food", "sport"}, {"sport"}]
    before = [{"food"}, set(), {"sport"}, {"food"}]
    after = [{"food"}, {"food"}, {"sport"}, {"sport"}]
    assert cost_of(before, after, truth) == Cost(before=0.5, after=0.5, changed=0.5, texts=4)
    with pytest.raises(ValueError, match="longer than"):
        cost_of(before, after[:3], truth)
