"""Looking names up: what to say when a word is not one of the known ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST_LISTED = 20


def suggest(word: str, choices: Iterable[str]) -> str:
    """``"; did you mean 'lt-prefix'?"`` for a word close to one of the choices, else ``""``."""
    by_lower_case = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(str(word).lower(), by_lower_case, n=1)
    return f"; did you mean {by_lower_case[close[0]]!r}?" if close else ""


def listed(choices: Iterable[str]) -> str:
    """``"'prefix', 'prompt'"``: the choices in their order, a long list cut with a count."""
    quoted = [repr(choice) for choice in choices]
    if len(quoted) > MOST_LISTED:
        return f"{', '.join(quoted[:MOST_LISTED])} and {len(quoted) - MOST_LISTED} more"
    return ", ".join(quoted)


def unknown(kind: str, word: str, choices: Iterable[str]) -> str:
    """A sentence that refuses a word, lists the choices and names the nearest one.

    ``unknown("method", "lt-prefx", ["prefix", "lt-prefix"])`` is ``"unknown method 'lt-prefx':
    expected one of 'prefix', 'lt-prefix'; did you mean 'lt-prefix'?"``.
    """
    choices = list(choices)
    expected = f"expected one of {listed(choices)}" if choices else "there are none"
    return f"unknown {kind} {word!r}: {expected}{suggest(word, choices)}"
