"""A frozen model and its tokenizer behind `tokenize`, `encode` and `forward`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from ltuning.backbones import layers, prefix_attention
from ltuning.backbones.batch_sizes import alike
from ltuning.backbones.families import Sizes, family_of
from ltuning.backbones.loading import (
    fingerprint,
    start_token,
    tokenized,
    with_padding,
)
from ltuning.backbones.long_texts import Tokens as Tokens
from ltuning.backbones.long_texts import Windows, read_of_long
from ltuning.backbones.lower import Lower
from ltuning.backbones.prefix import RUNNING, Pass, Prefix, Recorder, announced
from ltuning.config import BackboneOptions, LongTexts
from ltuning.errors import BackboneError
from ltuning.stages import Advance
from ltuning.texts import Text, columns_of

# What is read of a text where neither the model nor its tokenizer has a limit.
_LONGEST_TEXT = 2048


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

    def select(self, texts: Tensor) -> TextBatch:
        """Some of the texts, `[B']` their rows, with repetition where a row comes twice."""
        types = None if self.types is None else self.types.index_select(0, texts)
        return TextBatch(self.ids.index_select(0, texts), self.mask.index_select(0, texts), types)


@dataclass(frozen=True)
class LabelStates:
    """What the frozen backbone makes of the label texts; constants of a label set.

    Attributes:
        hidden: `[V, L, H]` last hidden states.
        mask: `[V, L]` bool, True at real tokens.
        ids: `[V, L]` token ids.
        key_values: `[V, M, 2, N, L, D]` keys and values of every layer.
        room: before which position the label texts end, where positions are absolute.
    """

    hidden: Tensor
    mask: Tensor
    ids: Tensor
    key_values: Tensor
    room: int

    @cached_property
    def mean(self) -> Tensor:
        """`[V, H]` mean of the states over each label text's real tokens."""
        # Training needs it too, where a scorer, in inference mode, may be the first to ask.
        with torch.inference_mode(False), torch.no_grad():
            weights = self.mask.unsqueeze(-1).to(self.hidden.dtype)
            return (self.hidden * weights).sum(1) / weights.sum(1)

    @cached_property
    def from_end(self) -> Tensor:
        """`[C]` of the real tokens of all label texts: how many of the same text come after it."""
        with torch.inference_mode(False):
            return self.mask.flip(1).long().cumsum(1).flip(1)[self.mask] - 1


@dataclass(frozen=True)
class Problems:
    """Why a model does not serve some methods; None where it serves them.

    Attributes:
        prefix: of the methods with a prefix.
        unmasking: of `ls-unmask`.
    """

    prefix: str | None = None
    unmasking: str | None = None


class FrozenModel:
    """A frozen language model with its tokenizer.

    Frozen means frozen: eval mode, no gradient into a weight, weights bit-identical after training.

    Args:
        model: a transformers base model (without a head) of a known family.
        tokenizer: its tokenizer.
        name: what the user gave, for messages and artifacts.
        revision: hub revision, if one was given.
        max_length: most tokens of a text, special tokens included; None = the model's own limit.

    Attributes:
        problems: what the self-test found at load; nothing, of one that was made by hand.
        options: what it was loaded with; None = made by hand.
        is_sharded: whether each of several processes holds a part of the weights, so that all make
            the same passes; see `sharding.shard`.

    Raises:
        BackboneError: a model that is no text encoder or decoder; a tokenizer or position table
            that does not fit.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        revision: str | None = None,
        max_length: int | None = None,
    ):
        self.name = name
        self.revision = revision
        self.config = model.config
        self.family = family_of(self.config)
        self.sizes = Sizes.of(model, self.family)
        self.tokenizer = with_padding(tokenizer, name)
        self.model = model.requires_grad_(False).eval()
        self.problems = Problems()
        self.options: BackboneOptions | None = None
        self.is_sharded = False
        self._fingerprint: str | None = None
        self.max_length = self._text_room(max_length)
        layers.install(self.model, self.family)

    @property
    def attention(self) -> str:
        """Attention implementation, by transformers' name."""
        return prefix_attention.plain_name(self.config._attn_implementation)

    @property
    def device(self) -> torch.device:
        """Where the word embeddings are, and with them all weights unless they are split."""
        return self.model.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights and states."""
        return next(self.model.parameters()).dtype

    @property
    def position_budget(self) -> int | None:
        """Most tokens that the model has positions for, virtual ones included; None = no limit."""
        return self.family.position_budget(self.config)

    @property
    def start_token(self) -> str | None:
        """The token that a decoder reads before every text; None = none, or no decoder."""
        return start_token(self.tokenizer) if self.family.causal else None

    @property
    def vocabulary_size(self) -> int:
        """Rows of the word embeddings."""
        return self.model.get_input_embeddings().num_embeddings

    @property
    def _reads_types(self) -> bool:
        """Whether the model tells the texts of a pair apart by segment ids.

        RoBERTa has one segment for both, and GPT-2 would look the ids up among its words.
        """
        number = getattr(self.config, "type_vocab_size", None)
        return not self.family.causal if number is None else number > 1

    def embed(self, ids: Tensor) -> Tensor:
        """Word embeddings `[..., E]` of ids `[...]`, as the model's own forward computes them."""
        return self.model.get_input_embeddings()(ids)

    @property
    def fingerprint(self) -> str:
        """Hash of the weights, the same for a model loaded in float32 or bfloat16."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self.model)
        return self._fingerprint

    def tokenize(
        self,
        texts: Sequence[Text],
        max_length: int | None = None,
        progress: Advance | None = None,
    ) -> list[Tokens]:
        """Token ids (and segment ids) of each text, special tokens added, truncated to the room.

        Args:
            texts: texts or text pairs.
            max_length: most tokens of one text; None = `self.max_length`.
            progress: called with the number of texts just done.
        """
        return self.windows(texts, max_length, progress).tokens

    def windows(
        self,
        texts: Sequence[Text],
        max_length: int | None = None,
        progress: Advance | None = None,
        long_texts: LongTexts = "cut",
    ) -> Windows:
        """As `tokenize`, with what becomes of a text that is longer than the room.

        Args:
            texts: texts or text pairs.
            max_length: most tokens of a window; None = `self.max_length`.
            progress: called with the number of texts just done.
            long_texts: `cut` leaves out what there is no room for; `windows` reads all of it, in
                windows that overlap, of a pair with the shorter text in each.

        Raises:
            DataError: for windows, a pair whose shorter text takes more than half of the room.
            BackboneError: for windows, a tokenizer that does not say which text a token is of.
        """
        found: list[list[Tokens]] = [[] for _ in texts]
        lengths = [0] * len(texts)
        for rows in alike(texts):
            some = [texts[row] for row in rows]
            made = self._tokenize_alike(some, max_length or self.max_length, long_texts)
            for row, (windows, length) in zip(rows, made, strict=True):
                found[row], lengths[row] = windows, length
            if progress is not None:
                progress(len(rows))
        tokens = [window for windows in found for window in windows]
        return Windows(tokens, [len(windows) for windows in found], lengths)

    def _tokenize_alike(
        self, texts: Sequence[Text], room: int, long_texts: LongTexts
    ) -> list[tuple[list[Tokens], int]]:
        """Windows and length of texts that are all single, or all pairs."""
        # Nothing is cut by the tokenizer: it would not say how much, and to cut a pair it makes
        # every combination of the parts of one text with those of the other: 9 GB and 25 s for
        # 40,000 words each.
        encoded = self._tokenized(texts, verbose=False)
        made = []
        for row, text in enumerate(texts):
            tokens: Tokens = {name: encoded[name][row] for name in encoded}
            length = len(tokens["input_ids"])
            if length > room and self.tokenizer.is_fast:
                sides = encoded.sequence_ids(row)
                from_left = self.tokenizer.truncation_side == "left"
                read = read_of_long(text, tokens, sides, room, long_texts, from_left)
                made.append((read, length))
            elif length > room:
                made.append(([self._cut_by_tokenizer(text, room, long_texts)], length))
            else:
                # No token of an empty text, if none is special; attention needs something.
                made.append(([tokens if length else self._placeholder(tokens)], length))
        return made

    def _tokenized(self, texts: Sequence[Text], **options: object) -> BatchEncoding:
        columns = columns_of(texts)
        return tokenized(self.tokenizer, *columns, return_attention_mask=False, **options)

    def _cut_by_tokenizer(self, text: Text, room: int, long_texts: LongTexts) -> Tokens:
        """What a tokenizer makes of a long text that does not say which text a token is of."""
        if long_texts == "windows":
            raise BackboneError(
                f"expected of '{self.name}' a tokenizer that says which text a token is of, for "
                "data.long_texts=windows, got a slow one; save it as a fast one (tokenizer.json) "
                "beside the model, or train with data.long_texts=cut"
            )
        encoded = self._tokenized([text], truncation=True, max_length=room)
        return {name: encoded[name][0] for name in encoded}

    def _placeholder(self, row: Tokens) -> Tokens:
        token = self.tokenizer.bos_token_id
        token = self.tokenizer.pad_token_id if token is None else token
        return {key: [token if key == "input_ids" else 0] for key in row}

    def batch(self, tokens: Sequence[Tokens]) -> TextBatch:
        """Pad tokenized texts on the right: `[B, T]`."""
        ids = [torch.tensor(row["input_ids"], dtype=torch.long) for row in tokens]
        padding = self.tokenizer.pad_token_id
        padded = nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=padding)
        lengths = torch.tensor([len(row) for row in ids])
        mask = torch.arange(padded.shape[1])[None, :] < lengths[:, None]
        types = None
        if self._reads_types and "token_type_ids" in tokens[0]:
            types = nn.utils.rnn.pad_sequence(
                [torch.tensor(row["token_type_ids"]) for row in tokens], batch_first=True
            )
        return TextBatch(padded, mask, types)

    def encode(self, texts: Sequence[Text]) -> tuple[Tensor, Tensor]:
        """Last hidden states of plain texts: states `[B, T, H]` and mask `[B, T]`."""
        batch = self.batch(self.tokenize(texts)).to(self.device)
        with torch.no_grad():
            return self.forward(batch), batch.mask

    def tokenize_labels(self, texts: Sequence[str]) -> list[Tokens]:
        """Token ids of each label text, special tokens added; nothing is cut."""
        encoded = tokenized(self.tokenizer, list(texts))
        return [{"input_ids": ids} for ids in encoded["input_ids"]]

    def encode_labels(
        self,
        texts: Sequence[str],
        max_tokens: int | None = None,
        *,
        room: int | None = None,
        key_values: bool = True,
        tokens: list[Tokens] | None = None,
    ) -> LabelStates:
        """Run the label texts through the backbone once.

        In a decoder a label ends right before the text, with what begins it, which so reads it as
        the words before it: before position 0 where positions are rotary, before the position of
        its room where they are absolute.

        Args:
            texts: V label texts.
            max_tokens: most tokens of one label text, special ones included; None = what it needs.
            room: positions that are kept for one, of which a longer one begins at the first; None =
                `max_tokens`, or what the longest needs.
            key_values: keep the keys and values of every layer too, in float32: 1 MiB per token
                of a 7B model.
            tokens: what `tokenize_labels` made of the texts; None = it is asked.

        Raises:
            BackboneError: a label text that is longer than its room, or without a token.
        """
        tokens = self.tokenize_labels(texts) if tokens is None else tokens
        self._check_label_room(texts, tokens, max_tokens)
        self._check_distinct(texts, tokens)
        batch = self.batch(tokens)
        return self.encode_ids(batch.ids, batch.mask, room or max_tokens, key_values=key_values)

    def encode_ids(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        room: int | None = None,
        *,
        key_values: bool = True,
    ) -> LabelStates:
        """Last states, keys and values of token ids `[V, L]` that stand before a text.

        Args:
            ids: `[V, L]` token ids.
            mask: `[V, L]` bool, True at real tokens; None = all are.
            room: positions that are kept for them, of which what is longer begins at the first;
                None = L.
            key_values: keep the keys and values too.
        """
        ids = ids.to(self.device)
        mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.to(self.device)
        room = room or ids.shape[1]
        positions = self.positions(mask)
        if self.family.positions == "rotary":
            positions = positions - mask.sum(1, keepdim=True)
        elif self.family.prefix_spends_positions:
            positions = positions + (room - mask.sum(1, keepdim=True)).clamp_min(0)
        recorder = Recorder(self.sizes.kv_heads)
        with torch.no_grad():
            hidden = self._run(mask, positions, Pass(recorder=recorder), input_ids=ids)
        kept = self._key_values(recorder if key_values else Recorder(0), ids)
        return LabelStates(hidden.float(), mask, ids, kept.float(), room)

    def _key_values(self, recorder: Recorder, ids: Tensor) -> Tensor:
        """`[V, M, 2, N, L, D]`, of no layer where those of some layer are not there."""
        if len(recorder.layers) == self.sizes.layers:
            # A model may be spread over devices.
            pairs = [torch.stack(pair, 1).to(self.device) for pair in recorder.layers]
            return torch.stack(pairs, 1)
        sizes = self.sizes
        shape = (len(ids), 0, 2, sizes.kv_heads, ids.shape[1], sizes.head_dim)
        return torch.empty(shape, device=ids.device)

    def forward(
        self,
        batch: TextBatch,
        *,
        prompt: tuple[Tensor, Tensor] | None = None,
        prefix: Prefix | None = None,
        lower: Lower | None = None,
    ) -> Tensor:
        """Last hidden states of a batch of texts, or of its branches.

        Args:
            batch: B texts.
            prompt: embeddings `[B, L, H]` before the text's own, and their mask `[B, L]`.
            prefix: keys and values before the text's own.
            lower: what the lower layers make of the batch: they do not run. They do all the same
                with a prompt, and where the texts start at another position than those of
                `lower`: with a prefix, or without one, that takes places of the position table.

        Returns:
            `[R, L + T, H]` with a prompt, whose padding then comes first, `[R, T, H]` otherwise
            (R = B without a fan-out).
        """
        if prompt is not None:
            return self._forward_prompt(batch, *prompt)
        if prefix is not None and self.problems.prefix is not None:
            raise BackboneError(self.problems.prefix)
        shift = 0
        if prefix is not None and self.family.prefix_spends_positions:
            shift = prefix.length if prefix.room is None else prefix.room
        running = Pass(prefix)
        if lower is not None and _is_usable(lower, batch, prefix, shift):
            running = Pass(prefix, skipped=range(lower.layer), output=lower.output)
        return self._run_texts(batch, shift, running)

    def run_lower(self, batch: TextBatch, layer: int, room: int = 0) -> Lower:
        """What the layers below `layer` make of a batch; the others do not run.

        Args:
            batch: B texts.
            layer: s, at least 1.
            room: the `room` of the prefix that the texts are read with.
        """
        shift = room if self.family.prefix_spends_positions else 0
        running = Pass(skipped=range(layer, self.sizes.layers))
        with torch.no_grad():
            self._run_texts(batch, shift, running)
        return Lower(layer, running.output, shift)

    def _run_texts(self, batch: TextBatch, shift: int, running: Pass) -> Tensor:
        extra = {} if batch.types is None else {"token_type_ids": batch.types}
        positions = self.positions(batch.mask) + shift
        return self._run(batch.mask, positions, running, input_ids=batch.ids, **extra)

    def positions(self, mask: Tensor) -> Tensor:
        """`[B, T]` positions counted over real tokens only, so that padding shifts nothing."""
        counted = (mask.long().cumsum(1) - 1).clamp(min=0)
        return counted + self.family.position_offset(self.config)

    def _forward_prompt(self, batch: TextBatch, prompt: Tensor, prompt_mask: Tensor) -> Tensor:
        embeddings = self.embed(batch.ids)
        # The padding of a short label goes in front: some models count distances by place.
        places = torch.arange(prompt_mask.shape[1], device=prompt_mask.device)
        order = torch.where(prompt_mask, places + len(places), places).argsort(dim=1)
        prompt = prompt.gather(1, order.unsqueeze(-1).expand_as(prompt))
        prompt_mask = prompt_mask.gather(1, order)
        mask = torch.cat([prompt_mask, batch.mask], dim=1)
        extra: dict[str, Tensor] = {}
        if batch.types is not None:
            zeros = batch.types.new_zeros(prompt_mask.shape)
            extra["token_type_ids"] = torch.cat([zeros, batch.types], dim=1)
        joined = torch.cat([prompt.to(embeddings.dtype), embeddings], dim=1)
        return self._run(mask, self.positions(mask), Pass(), inputs_embeds=joined, **extra)

    def _run(self, mask: Tensor, positions: Tensor, running: Pass, **inputs: object) -> Tensor:
        """One forward of the model, with the pass announced to its layers."""
        prefix, recorder = running.prefix, running.recorder
        if self.family.causal:
            inputs["use_cache"] = False
        if self.family.attention == "cache" and (prefix is not None or recorder is not None):
            inputs["past_key_values"] = prefix_attention.PrefixCache(prefix.length if prefix else 0)
        if self.family.attention == "cache" and prefix is not None:
            # These models make all masks for one batch: each branch is a row from the start.
            inputs = {
                name: prefix.fan_out(value) if isinstance(value, Tensor) else value
                for name, value in inputs.items()
            }
            positions = prefix.fan_out(positions)
            mask = torch.cat([prefix.branch_mask(), prefix.fan_out(mask)], dim=1)
        if self.family.positions != "relative":
            inputs["position_ids"] = positions
        with announced(RUNNING, running):
            output = self.model(attention_mask=mask.long(), **inputs)
        return output.last_hidden_state.to(self.device)

    def _text_room(self, max_length: int | None) -> int:
        budget = self.position_budget
        room = text_room(self.tokenizer, budget, max_length)
        least = self.tokenizer.num_special_tokens_to_add(pair=True) + 1
        if room < least:
            raise BackboneError(
                f"expected max_length of at least {least}, the special tokens of '{self.name}' "
                f"and a word, got {room}; give a larger one"
            )
        if max_length is not None and budget is not None and max_length > budget:
            raise BackboneError(
                f"expected max_length of at most {budget}, the positions of '{self.name}', "
                f"got {max_length}; give a smaller one"
            )
        return room

    def _check_distinct(self, texts: Sequence[str], tokens: list[Tokens]) -> None:
        seen: dict[tuple[int, ...], str] = {}
        for text, row in zip(texts, tokens, strict=True):
            other = seen.setdefault(tuple(row["input_ids"]), text)
            if other is not text:
                raise BackboneError(
                    f"expected label texts that the tokenizer of '{self.name}' tells apart, got "
                    f"the same tokens for '{other}' and '{text}'; use words that it knows"
                )

    def _check_label_room(
        self, texts: Sequence[str], tokens: list[Tokens], max_tokens: int | None
    ) -> None:
        # Half of the positions is the least that a text should keep for itself.
        room = max_tokens or (self.position_budget or self.max_length) // 2
        for text, row in zip(texts, tokens, strict=True):
            if not row["input_ids"]:
                raise BackboneError(
                    f"expected label texts of at least one token, got none for {text!r}; use words "
                    f"that the tokenizer of '{self.name}' knows"
                )
            if len(row["input_ids"]) > room:
                shown = text if len(text) <= 60 else text[:57] + "..."
                raise BackboneError(
                    f"expected label texts of at most {room} tokens, got {len(row['input_ids'])} "
                    f"for '{shown}'; shorten the label text"
                )


def text_room(
    tokenizer: PreTrainedTokenizerBase, budget: int | None, max_length: int | None
) -> int:
    """The most tokens of a text that a model reads, special tokens included.

    Args:
        tokenizer: of the model.
        budget: positions of the model; None = no limit.
        max_length: what was asked for; None = the model's own limit.
    """
    limit = budget or _LONGEST_TEXT if max_length is None else max_length
    return min(tokenizer.model_max_length, limit, budget or limit)


def _is_usable(lower: Lower, batch: TextBatch, prefix: Prefix | None, shift: int) -> bool:
    """Whether `lower` holds what this pass would compute."""
    if prefix is not None and prefix.first_layer < lower.layer:
        raise ValueError(
            f"expected a prefix from layer {lower.layer} up, below which the output is kept, "
            f"got one from layer {prefix.first_layer}"
        )
    if lower.states.shape[:2] != batch.ids.shape:
        raise ValueError(
            f"expected the batch whose lower layers are kept, {tuple(lower.states.shape[:2])}, "
            f"got one of {tuple(batch.ids.shape)}"
        )
    return lower.shift == shift
