"""`ltuning serve`: classifiers of several run folders behind HTTP."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from ltuning.cli import options
from ltuning.cli.terminal import Terminal, silence_libraries
from ltuning.errors import ConfigError, MissingExtraError, Problem
from ltuning.serving.bounds import Bounds

# A name of a host with what is below it, an address, any.
_NAME = re.compile(
    r"\*|(\*\.)?[\w-][\w.-]*|\[[\da-fA-F:.]+\]|[\da-fA-F]*:[\da-fA-F:.]*:[\da-fA-F:.]*"
)
_LOCAL = ("127.0.0.1", "localhost", "::1")


def serve(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN",
            help="Folders of trained classifiers, each named as its folder, or NAME=RUN.",
            show_default=False,
        ),
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 is every one of this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 is any that is free.")] = 8000,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Name in the Host header that is answered, beside localhost and --host; once per "
            "name, * is any.",
            show_default=False,
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            parser=options.user_path,
            metavar="FILE",
            help="Keys, one a line: who has none of them is refused.",
            show_default=False,
        ),
    ] = None,
    allow_label_changes: Annotated[
        bool,
        typer.Option(
            "--allow-label-changes", help="Let labels be added by their texts, in memory."
        ),
    ] = False,
    backbone: options.OtherBackbone = None,
    max_waiting: Annotated[
        int, typer.Option(help="Texts that may wait for a backbone.", rich_help_panel="Bounds")
    ] = Bounds.waiting,
    max_texts: Annotated[
        int, typer.Option(help="Texts of a request.", rich_help_panel="Bounds")
    ] = Bounds.texts,
    max_characters: Annotated[
        int, typer.Option(help="Characters of a text.", rich_help_panel="Bounds")
    ] = Bounds.characters,
    max_body: Annotated[
        int, typer.Option(help="Bytes of a request.", rich_help_panel="Bounds")
    ] = Bounds.body,
    timeout: Annotated[
        float, typer.Option(help="Seconds for an answer.", rich_help_panel="Bounds")
    ] = Bounds.seconds,
) -> None:
    """Serve trained classifiers over HTTP, with a page to try them.

    Classifiers of the same backbone share it, and texts that arrive together run in one pass. The
    page is at /, the interface at /openapi.json. It ends with Ctrl-C or SIGTERM, once it has
    answered what it has taken.
    """
    for name in ("fastapi", "uvicorn", "prometheus_client"):
        if find_spec(name) is None:
            raise MissingExtraError("ltuning serve", "serve")
    bounds = Bounds(max_waiting, max_texts, max_characters, max_body, timeout)
    _check(bounds, port, allow_host or [])
    keys = [] if api_key_file is None else _keys(api_key_file)
    names = [*dict.fromkeys([*_LOCAL, host, *(allow_host or [])])]
    with _without_paths():
        _serve(runs, backbone, (host, port), names, keys, bounds, allow_label_changes)


def _serve(
    runs: list[str],
    backbone: str | None,
    place: tuple[str, int],
    names: list[str],
    keys: list[str],
    bounds: Bounds,
    allow_label_changes: bool,
) -> None:
    from ltuning.serving.app import create_app
    from ltuning.serving.measures import Measures
    from ltuning.serving.registry import Registry
    from ltuning.serving.server import listening, server_of

    terminal, measures, folders = Terminal(quiet=False), Measures(), named(runs)
    with closing(listening(*place)) as socket:
        silence_libraries()
        registry = Registry(
            folders, backbone=backbone, most_waiting=bounds.waiting, observe=measures.ran
        )
        with terminal.waiting("loading the classifiers"):
            registry.load()
        app = create_app(
            registry,
            measures,
            bounds=bounds,
            keys=keys,
            hosts=names,
            allow_label_changes=allow_label_changes,
        )
        host, port = socket.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        loaded = [entry.name for entry in registry.entries.values() if entry.loaded]
        terminal.note(f"http://{shown}:{port} serves {', '.join(loaded)}; Ctrl-C ends it")
        if place[0] not in _LOCAL and not keys:
            terminal.note("whoever reaches this port is answered; --api-key-file asks for a key")
        server_of(app, bounds.seconds).run(sockets=[socket])


def named(runs: Sequence[str]) -> dict[str, Path]:
    """Folders by their names: the last part of a path, or what stands before it in `NAME=RUN`.

    Raises:
        ConfigError: two of one name, or a name that an address cannot have.
    """
    problems: list[Problem] = []
    found: dict[str, Path] = {}
    for run in runs:
        name, is_named, path = run.partition("=")
        if not is_named or options.user_path(run).exists():
            path = run
            name = os.path.basename(os.path.abspath(options.user_path(run)))
        if name in ("", ".", "..") or "/" in name or not name.isprintable():
            message = f"expected a name without /, got {name!r}; write NAME=RUN"
            problems.append(Problem("RUN", message))
        elif name in found:
            message = (
                f"expected each name once, got {name!r} for {found[name]} and {path}; write "
                "NAME=RUN to give one of them another name"
            )
            problems.append(Problem("RUN", message))
        found[name] = options.classifier_path(path)
    if problems:
        raise ConfigError(problems)
    return found


def _check(bounds: Bounds, port: int, names: list[str]) -> None:
    """Refuse bounds that nothing fits into, a port and names that cannot be."""
    given = {
        "--max-waiting": bounds.waiting,
        "--max-texts": bounds.texts,
        "--max-characters": bounds.characters,
        "--max-body": bounds.body,
    }
    problems = [
        Problem(option, f"expected 1 or more, got {value}")
        for option, value in given.items()
        if value < 1
    ]
    if not 0 < bounds.seconds < 86_400:
        message = f"expected seconds above 0 and below a day, got {bounds.seconds:g}"
        problems.append(Problem("--timeout", message))
    if not 0 <= port < 2**16:
        problems.append(Problem("--port", f"expected a port from 0 to 65,535, got {port}"))
    if bounds.waiting < bounds.texts and not problems:
        message = (
            f"expected room for a request, which may have {bounds.texts:,} texts, got "
            f"{bounds.waiting:,}; give more, or a smaller --max-texts"
        )
        problems.append(Problem("--max-waiting", message))
    problems += [
        Problem("--allow-host", f"expected a name, *.NAME, or * for any, got {name!r}")
        for name in names
        if not _NAME.fullmatch(name)
    ]
    if problems:
        raise ConfigError(problems)


def _keys(path: Path) -> list[str]:
    text = path.read_bytes().decode("utf-8", errors="replace")
    keys = [line.strip() for line in text.splitlines()]
    keys = [key for key in keys if key]
    if not keys or not all(key.isascii() and key.isprintable() for key in keys):
        message = f"expected keys of ASCII letters and signs, one a line, in {path}, got "
        message += "others" if keys else "none"
        raise ConfigError([Problem("--api-key-file", message)])
    return keys


@contextmanager
def _without_paths() -> Iterator[None]:
    """What is logged while the block runs names no folder of this machine."""
    from ltuning.serving.registry import without_paths

    def shorten(record: logging.LogRecord) -> bool:
        record.msg, record.args = without_paths(record.getMessage()), ()
        return True

    logger = logging.getLogger("ltuning")
    logger.addFilter(shorten)
    try:
        yield
    finally:
        logger.removeFilter(shorten)
