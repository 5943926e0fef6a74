"""The arguments of a front door, as scikit-learn asks for them and makes estimators anew of them.

None of its classes is inherited: to import them takes a fifth of what a first prediction imports,
which needs nothing of them. Its tools ask for methods and not for classes.
"""

from __future__ import annotations

import copy
from typing import Any, Self

from ltuning.backbones.backbone import Backbone
from ltuning.config import Config
from ltuning.errors import ConfigError, Problem
from ltuning.suggestions import unknown


class SharedBackbone:
    """A backbone that is loaded when it is first needed, once for a classifier and its clones."""

    def __init__(self, loaded: Backbone | None = None):
        self.loaded = loaded

    def __deepcopy__(self, _: object) -> SharedBackbone:
        return self

    def __reduce__(self) -> Any:
        # A pickle has no weights of a backbone.
        return SharedBackbone, ()


class Parameters:
    """What is given to a constructor, kept, and given back.

    Attributes:
        config: the configuration that it makes.
    """

    config: Config
    _given: dict[str, Any]
    _shared: SharedBackbone

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments of the constructor as they were given, by name.

        Args:
            deep: scikit-learn's; no argument has parameters of its own.
        """
        return dict(self._given)

    def set_params(self, **params: Any) -> Self:
        """Change arguments of the constructor; a trained classifier is then no longer trained.

        Its configuration and what was trained would not be of each other. A backbone that is
        loaded stays loaded where the arguments name the same one.

        Args:
            **params: by name.

        Raises:
            ConfigError: what the constructor refuses, and names that are none of its arguments;
                nothing has changed then.
        """
        if strange := [name for name in params if name not in self._given]:
            raise ConfigError(
                [Problem(name, unknown("argument", name, self._given)) for name in strange]
            )
        if params:
            made = self._anew({**self._given, **params})
            vars(self).clear()
            vars(self).update(vars(made))
        return self

    def __sklearn_clone__(self) -> Self:
        """Of the same arguments and not trained; it shares the backbone."""
        return self._anew(copy.deepcopy(self._given))

    def _anew(self, given: dict[str, Any]) -> Self:
        made = type(self)(**given)
        if made._shared.loaded is None and made.config.backbone == self.config.backbone:
            made._shared = self._shared
        return made
