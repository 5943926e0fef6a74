"""Opening a backbone: loaded by its name, and tried before anything relies on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ltuning.backbones import selftest
from ltuning.backbones.frozen_model import FrozenModel
from ltuning.backbones.loading import load_config, load_model, load_tokenizer, start_token
from ltuning.config import SHARD, BackboneOptions, StartToken, absolute_path
from ltuning.errors import BackboneError


class Backbone(FrozenModel):
    """A frozen language model with its tokenizer; `Backbone.load` opens one by its name.

    One in memory serves any number of classifiers: give it to each of them as `backbone`.
    """

    @classmethod
    def load(cls, options: BackboneOptions | str, *, tested: bool = True) -> Backbone:
        """Load a backbone by builtin name, local folder or hub id, and try it.

        Args:
            options: its name alone, or how it is loaded: `BackboneOptions` of `ltuning.config`.
            tested: whether it is tried: that padding changes nothing, that a prefix reaches every
                layer, and that texts of a batch do not mix.

        Raises:
            BackboneError: nothing there, no tokenizer, weights that cannot be read, a
                model that is no text encoder or decoder, a device that is not there, a model that
                fails the self-test; with device `shard` one process alone, or some with a GPU and
                some without.
            MissingExtraError: the package of the builtin backbone, or of quantisation, is missing.
        """
        if isinstance(options, str):
            options = BackboneOptions(name=options)
        config, family = load_config(options)
        backbone = cls(
            load_model(config, family, options),
            load_tokenizer(options, config, family),
            name=absolute_path(options.name),
            revision=options.revision,
            max_length=options.max_length,
        )
        backbone.options = options
        if options.device == SHARD:
            from ltuning.backbones.sharding import shard

            shard(backbone)
        if tested:
            backbone.problems = selftest.require(backbone)
        return backbone

    def starts_texts_as(self, start: StartToken) -> bool:
        """Whether texts begin as they do where it is loaded with this `start_token`.

        One that was made by hand reads texts as its tokenizer was saved, which is `none`.
        """
        if self.options is None:
            return start == "none"
        if self.options.start_token == start:
            return True
        options = replace(self.options, start_token=start)
        other = load_tokenizer(options, self.config, self.family)
        return start_token(other) == start_token(self.tokenizer)

    def __deepcopy__(self, _: object) -> Backbone:
        """Itself: it is frozen, and copies of what it serves share it."""
        return self

    def __sklearn_clone__(self) -> Backbone:
        """Itself, as an argument of a classifier that scikit-learn clones."""
        return self

    def __reduce__(self) -> tuple[Callable[..., Backbone], tuple[BackboneOptions]]:
        """How to load it again: a pickle has no weights of it.

        Raises:
            BackboneError: one that was made by hand, of a model.
        """
        if self.options is None:
            raise BackboneError(
                "expected a backbone for the pickle that can be loaded again, got "
                f"'{self.name}', which was made of a model; save the model and its tokenizer in a "
                "folder and take Backbone.load(folder)"
            )
        # A pickle may go where there is one process.
        device = "auto" if self.is_sharded else self.options.device
        return Backbone.load, (replace(self.options, name=self.name, device=device),)
