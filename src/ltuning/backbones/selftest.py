"""What a loaded model must do before anything is trained on it, tried on the model itself.

A family that a new version of transformers changes, or one that has no row in the table, would
otherwise give plausible and wrong scores without a word.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from ltuning import processes
from ltuning.backbones.cache import user_cache
from ltuning.backbones.frozen_model import FrozenModel, Problems
from ltuning.backbones.masks import unmasked
from ltuning.backbones.prefix import Prefix
from ltuning.errors import BackboneError

# Differences that rounding explains, as a share of the states' size.
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
_LENGTHS = (7, 3)
_OWN = Path(__file__).parent


@dataclass(frozen=True)
class Finding:
    """One property of a loaded model.

    Attributes:
        name: the property, in words.
        holds: whether the model has it.
        found: what was measured, or the error.
        needed_by: `every method`, `prefix methods`, or `ls-unmask`.
    """

    name: str
    holds: bool
    found: str
    needed_by: str = "every method"


def examine(backbone: FrozenModel) -> list[Finding]:
    """Try every property on the model; takes a dozen forwards of a few tokens."""
    findings = []
    for name, needed_by, check in _CHECKS:
        # Of one that is divided over processes no copy is made whose mask could be removed.
        if needed_by == _UNMASKING and (not backbone.family.causal or backbone.is_sharded):
            continue
        try:
            # Whoever loads without gradients asks all the same whether a prefix gets them.
            with torch.inference_mode(False), torch.enable_grad():
                holds, found = check(backbone)
        # Whatever a model raises here, it is a finding about the model.
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            holds, found = False, f"{type(error).__name__}: {reason}"
        findings.append(Finding(name, holds, found, needed_by))
    return findings


def require(backbone: FrozenModel) -> Problems:
    """Examine a model unless it has passed before, and refuse it where a property fails.

    A model that only fails in what prefixes or un-masking need is kept; why it takes no prefix, or
    keeps its mask, is what is returned.

    Raises:
        BackboneError: a property that every method needs does not hold.
    """
    problems = Problems()
    passed = _record(backbone)
    if passed is not None and _exists(passed):
        return problems
    findings = examine(backbone)
    if backbone.is_sharded:  # all go on, or none
        findings = processes.of_main(findings)
    failed = [finding for finding in findings if not finding.holds]
    for finding in failed:
        sentence = (
            f"expected of '{backbone.name}' (model type '{backbone.family.name}', attention "
            f"{backbone.attention}) that {finding.name}, got: {finding.found}"
        )
        if finding.needed_by == "every method":
            hint = _HINTS.get(finding.name, "try backbone.attention=eager, or another checkpoint")
            raise BackboneError(f"{sentence}; its scores would be wrong: {hint}")
        if finding.needed_by == _UNMASKING:
            problems = replace(problems, unmasking=f"{sentence}; use method ls-lora with it")
        else:
            hint = "use method prompt or lt-prompt with it"
            problems = replace(problems, prefix=f"{sentence}; {hint}")
    if not failed and passed is not None:
        # A folder that cannot be written costs a second at the next load, nothing else.
        with suppress(OSError):
            passed.parent.mkdir(parents=True, exist_ok=True)
            passed.write_text(json.dumps({"backbone": backbone.name}), encoding="utf-8")
    return problems


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a folder of another user
        return False


def _record(backbone: FrozenModel) -> Path | None:
    """The file that says that this model, computed this way by this code, has passed.

    None where there is no home to keep it in, and where several processes, which may have homes of
    their own, all have to make the same passes.
    """
    if backbone.is_sharded:
        return None
    config = {**backbone.config.to_dict(), "_name_or_path": None}
    parts = [
        backbone.fingerprint,
        json.dumps(config, sort_keys=True, default=str),
        backbone.attention,
        str(backbone.dtype),
        backbone.device.type,
        *(version(name) for name in ("torch", "transformers")),
        *(source.read_text(encoding="utf-8") for source in sorted(_OWN.glob("*.py"))),
    ]
    folder = user_cache()
    name = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return None if folder is None else folder / "selftest" / f"{name}.json"


def _token_rows(backbone: FrozenModel) -> list[list[int]]:
    """Words from all over the vocabulary, the same at every call."""
    special = set(backbone.tokenizer.all_special_ids)
    usable = [word for word in range(backbone.vocabulary_size) if word not in special]
    draw = torch.Generator().manual_seed(0)
    return [
        [usable[place] for place in torch.randint(len(usable), (length,), generator=draw)]
        for length in _LENGTHS
    ]


def _states(
    backbone: FrozenModel, rows: Sequence[Sequence[int]], prefix: Prefix | None = None
) -> list[Tensor]:
    """States of each branch's real tokens, padded beside each other."""
    batch = backbone.batch([{"input_ids": list(row)} for row in rows]).to(backbone.device)
    states = backbone.forward(batch, prefix=prefix).float()
    texts = range(len(rows)) if prefix is None or prefix.texts is None else prefix.texts.tolist()
    return [states[branch, : len(rows[text])] for branch, text in enumerate(texts)]


def _prefix(backbone: FrozenModel, first_layer: int = 0) -> Prefix:
    """Two labels of two virtual tokens, drawn at random; the last one of them is padding."""
    sizes = backbone.sizes
    shape = (2, sizes.layers - first_layer, 2, sizes.kv_heads, 2, sizes.head_dim)
    states = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(backbone.device)
    # A model that reads padding reads something that cannot be overlooked.
    states[1, :, :, :, 1] = 50.0
    mask = torch.tensor([[True, True], [True, False]], device=backbone.device)
    return Prefix(states, mask, first_layer, torch.tensor([0, 1], device=backbone.device))


def _same(
    backbone: FrozenModel, left: Sequence[Tensor], right: Sequence[Tensor]
) -> tuple[bool, str]:
    """Whether two sets of states agree, and by how much they differ."""
    pairs = zip(left, right, strict=True)
    differences = [(a - b).norm() / b.norm().clamp(min=1e-12) for a, b in pairs]
    # NaN, which no comparison of Python's would keep, is the largest of all.
    largest = float(torch.stack(differences).max())
    return largest <= _TOLERANCE[backbone.dtype], f"relative difference {largest:.1e}"


def _is_frozen(backbone: FrozenModel) -> tuple[bool, str]:
    trainable = sum(weight.requires_grad for weight in backbone.model.parameters())
    return trainable == 0 and not backbone.model.training, f"{trainable} trainable weights"


@torch.no_grad()
def _plain_states(backbone: FrozenModel) -> tuple[bool, str]:
    row = _token_rows(backbone)[0]
    ids = torch.tensor([row], device=backbone.device)
    plain = backbone.model(input_ids=ids, attention_mask=torch.ones_like(ids))
    return _same(backbone, _states(backbone, [row]), [plain.last_hidden_state[0].float()])


@torch.no_grad()
def _padding_changes_nothing(backbone: FrozenModel) -> tuple[bool, str]:
    rows = _token_rows(backbone)
    alone = [state for row in rows for state in _states(backbone, [row])]
    return _same(backbone, _states(backbone, rows), alone)


@torch.no_grad()
def _direction_is_as_listed(backbone: FrozenModel) -> tuple[bool, str]:
    row = _token_rows(backbone)[0]
    first = _states(backbone, [row])[0][:1]
    changed = _states(backbone, [[*row[:-1], row[0]]])[0][:1]
    stays, found = _same(backbone, [changed], [first])
    holds = stays if backbone.family.causal else not torch.equal(changed, first)
    return holds, f"the first state after another last word: {found}"


@torch.no_grad()
def _no_prefix_is_none(backbone: FrozenModel) -> tuple[bool, str]:
    rows = _token_rows(backbone)
    whole = _prefix(backbone)
    empty = Prefix(whole.states[..., :0, :], whole.mask[:, :0], 0, whole.rows)
    return _same(backbone, _states(backbone, rows, empty), _states(backbone, rows))


def _prefix_reaches_every_layer(backbone: FrozenModel) -> tuple[bool, str]:
    prefix = _prefix(backbone)
    leaf = prefix.states.clone().requires_grad_()
    states = _states(backbone, _token_rows(backbone), Prefix(leaf, prefix.mask, 0, prefix.rows))
    # Weighted, because behind a normalisation the plain sum of a state is always the same.
    weights = torch.linspace(-1, 1, backbone.sizes.hidden, device=backbone.device)
    loss = torch.cat([state @ weights for state in states]).sum()
    layers = backbone.sizes.layers
    if not loss.requires_grad:
        return False, f"the attention of none of {layers} layers is reached"
    (gradient,) = torch.autograd.grad(loss, leaf)
    sizes = gradient.float().abs().amax(dim=(0, 3, 4, 5))
    reached = int(((sizes > 0) & sizes.isfinite()).all(dim=1).sum())
    recorded = backbone.encode_ids(torch.tensor([_token_rows(backbone)[0]])).key_values.shape[1]
    if reached == layers != recorded:
        return False, f"more than {layers} layers compute keys and values"
    return reached == layers, f"keys and values of {reached} of {layers} layers have a gradient"


@torch.no_grad()
def _padding_of_a_label_is_not_read(backbone: FrozenModel) -> tuple[bool, str]:
    row = _token_rows(backbone)[0]
    whole = _prefix(backbone)
    last = torch.tensor([1], device=backbone.device)
    short = Prefix(whole.states[..., :1, :], whole.mask[:, :1], 0, last, room=whole.length)
    padded = Prefix(whole.states, whole.mask, 0, last)
    return _same(backbone, _states(backbone, [row], padded), _states(backbone, [row], short))


@torch.no_grad()
def _prompt_of_words_is_those_words(backbone: FrozenModel) -> tuple[bool, str]:
    row, other = _token_rows(backbone)
    batch = backbone.batch([{"input_ids": row}]).to(backbone.device)
    ids = torch.tensor([other], device=backbone.device)
    prompted = backbone.forward(batch, prompt=(backbone.embed(ids), torch.ones_like(ids).bool()))
    return _same(backbone, [prompted[0].float()], _states(backbone, [[*other, *row]]))


@torch.no_grad()
def _branches_are_apart(backbone: FrozenModel) -> tuple[bool, str]:
    rows = _token_rows(backbone)
    first = backbone.sizes.layers // 2
    whole = _prefix(backbone, first)
    texts = torch.tensor([0, 0, 1, 1], device=backbone.device)
    labels = torch.tensor([0, 1, 0, 1], device=backbone.device)
    together = _states(backbone, rows, Prefix(whole.states, whole.mask, first, labels, texts))
    alone = [
        _states(backbone, [row], Prefix(whole.states, whole.mask, first, labels[at : at + 1]))[0]
        for row in rows
        for at in (0, 1)
    ]
    return _same(backbone, together, alone)


@torch.no_grad()
def _late_words_reach_early_states(backbone: FrozenModel) -> tuple[bool, str]:
    free = unmasked(backbone)
    row = _token_rows(backbone)[0]
    first, changed = (_states(free, [ids])[0][:1] for ids in (row, [*row[:-1], row[0]]))
    same, found = _same(backbone, [changed], [first])
    return not same, f"the first state after another last word: {found}"


@torch.no_grad()
def _padding_stays_masked(backbone: FrozenModel) -> tuple[bool, str]:
    return _padding_changes_nothing(unmasked(backbone))


# What to do where computing attention in another way cannot help.
_HINTS = {
    "its states are those of the plain model": "this family counts positions in its own way and "
    "needs a row in the table of families; use another checkpoint until it has one",
}

_UNMASKING = "ls-unmask"

_Check = Callable[[FrozenModel], tuple[bool, str]]
_CHECKS: tuple[tuple[str, str, _Check], ...] = (
    ("its weights are frozen", "every method", _is_frozen),
    ("its states are those of the plain model", "every method", _plain_states),
    ("padding changes no state", "every method", _padding_changes_nothing),
    ("a word sees what its family says", "every method", _direction_is_as_listed),
    ("a prompt of words is those words", "every method", _prompt_of_words_is_those_words),
    ("a prefix of no tokens is none", "prefix methods", _no_prefix_is_none),
    ("a prefix reaches every layer", "prefix methods", _prefix_reaches_every_layer),
    ("padding of a label is not read", "prefix methods", _padding_of_a_label_is_not_read),
    ("branches in a batch are apart", "prefix methods", _branches_are_apart),
    ("without its causal mask a word sees later ones", _UNMASKING, _late_words_reach_early_states),
    ("without its causal mask padding changes no state", _UNMASKING, _padding_stays_masked),
)
