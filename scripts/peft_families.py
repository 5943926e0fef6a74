"""What PEFT's prefix and prompt tuning do on the tiny models of the conformance battery."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

TINY = Path(__file__).parents[1] / "tests" / "conformance" / "tiny.py"
METHODS = ("prefix tuning", "prompt tuning")
NUM_TOKENS = 4
SHORT, LONG = "ball team", "train to the beach and hotel map with the ticket"
# Most that rounding can do to a number near 1.
_TOLERANCE = 1e-4
_LONGEST_REASON = 80


def tiny_models() -> ModuleType:
    """The table of tiny models, from the tests' folder, which is no package."""
    spec = importlib.util.spec_from_file_location("tiny", TINY)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny"] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def peft_cells() -> dict[str, list[str]]:
    """For each family: what prefix and what prompt tuning came to."""
    import torch
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    cells = {}
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for family, tiny in tiny_models().FAMILIES.items():
            folder = tiny.save(Path(temporary) / family)
            cells[family] = [_outcome(folder, method) for method in METHODS]
    return cells


def _outcome(folder: Path, method: str) -> str:
    try:
        return _train_and_pad(folder, method)
    except Exception as error:  # whatever it is, it is what a user of the peer meets
        text = " ".join(str(error).split())
        sentence = text.split(". ")[0][:_LONGEST_REASON].strip()
        return f"{type(error).__name__}: {sentence}"


def _train_and_pad(folder: Path, method: str) -> str:
    """One training step, then a text alone against the same text beside a longer one."""
    import torch
    from transformers import AutoConfig, AutoTokenizer

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    config = AutoConfig.from_pretrained(folder)
    config.pad_token_id = tokenizer.pad_token_id
    model = _peft_model(folder, config, method)

    both = tokenizer([SHORT, LONG], padding=True, return_tensors="pt")
    problem = _step(model, both)
    if problem:
        return problem
    model.eval()
    alone = tokenizer([SHORT], return_tensors="pt")
    with torch.no_grad():
        expected, found = (model(**inputs).logits[0] for inputs in (alone, both))
    difference = float((expected - found).abs().max())
    if difference > _TOLERANCE:
        return f"padding changes the answer by {difference:.2g}"
    return "pass"


def _peft_model(folder: Path, config: Any, method: str) -> Any:
    from peft import PrefixTuningConfig, PromptTuningConfig, TaskType, get_peft_model
    from transformers import AutoModelForSequenceClassification

    config.num_labels = 2
    base = AutoModelForSequenceClassification.from_pretrained(folder, config=config)
    options = PrefixTuningConfig if method == "prefix tuning" else PromptTuningConfig
    return get_peft_model(base, options(task_type=TaskType.SEQ_CLS, num_virtual_tokens=NUM_TOKENS))


def _step(model: Any, inputs: Any) -> str:
    """Train once; what is wrong with it, or nothing."""
    import torch

    model.train()
    model(**inputs, labels=torch.tensor([0, 1])).loss.backward()
    for name, weight in model.named_parameters():
        if "prompt_encoder" in name and (weight.grad is None or not weight.grad.any()):
            return "no gradient reaches the virtual tokens"
        if weight.grad is not None and not torch.isfinite(weight.grad).all():
            return "a gradient is not finite"
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    optimizer.step()
    return ""


if __name__ == "__main__":
    for family, cells in peft_cells().items():
        print(family, *cells, sep=" | ")
