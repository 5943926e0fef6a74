"""Tables in files and streams: endings, compression, and writing without half-written files."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import uuid
import zlib
from pathlib import Path
from typing import IO, Any

from ltuning.data.formats import FORMATS, decode_table, encode_table
from ltuning.data.tables import Table
from ltuning.errors import DataError
from ltuning.registry import unknown

Stream = IO[str] | IO[bytes]


def read_table(source: str | Path | Stream, format: str | None = None) -> Table:
    """Read every row of a file or of an open stream.

    Args:
        source: a path, or a text or binary stream such as ``sys.stdin``.
        format: ``csv``, ``tsv``, ``jsonl``, ``parquet`` or ``txt``, each also with ``.gz``; None:
            the file's ending says it. Needed for a stream.

    Raises:
        DataError: a missing file, an unknown ending, or content that is not in the format.
    """
    if isinstance(source, str | Path):
        path = local_path(source)
        origin, data = str(source), _read_bytes(path)
        plain, compressed = _split_format(format) if format else _format_of_name(path.name, origin)
    else:
        origin = str(getattr(source, "name", "<stream>"))
        if format is None:
            raise DataError(
                f"{origin}: a stream has no file ending; say its format, "
                f"one of {', '.join(FORMATS)}"
            )
        plain, compressed = _split_format(format)
        data = _read_stream(source)
    return decode_table(_decompress(data, origin) if compressed else data, plain, origin)


def write_table(table: Table, target: str | Path | Stream) -> None:
    """Write every row: to a path in the format of its ending, to a stream in the table's format.

    A file is written beside the target and then put in its place, so a failure leaves what was
    there.

    Raises:
        DataError: an unknown ending, a table that the format cannot hold, or a target that cannot
            be written.
    """
    if isinstance(target, str | Path):
        path = local_path(target)
        plain, compressed = _format_of_name(path.name, str(target))
        data = encode_table(table, plain)
        _write_file(gzip.compress(data, mtime=0) if compressed else data, path)
    else:
        _write_stream(encode_table(table, table.format), target, table.format)


def stem_of(name: str) -> str | None:
    """A file name without its ending; None where the ending is not one that can be read."""
    ending = _ending(name)
    return name[: -len(ending) - 1] if _parse_format(ending) else None


def format_of(path: Path) -> str:
    """The format that a file's ending says.

    Raises:
        DataError: an unknown ending.
    """
    return _format_of_name(path.name, str(path))[0]


def local_path(source: str | Path) -> Path:
    """The path that a user's word means; ``~`` is the home folder."""
    return Path(os.path.expanduser(source))


# --- formats by name ------------------------------------------------------------------------------


def _parse_format(name: str) -> tuple[str, bool] | None:
    plain = name.lower().removesuffix(".gz")
    return (plain, plain != name.lower()) if plain in FORMATS else None


def _split_format(name: str) -> tuple[str, bool]:
    parsed = _parse_format(name)
    if parsed is None:
        raise DataError(unknown("format", name, FORMATS))
    return parsed


def _ending(name: str) -> str:
    parts = name.lower().split(".")[1:]
    return ".".join(parts[-2:] if parts[-1:] == ["gz"] else parts[-1:])


def _format_of_name(name: str, origin: str) -> tuple[str, bool]:
    parsed = _parse_format(_ending(name))
    if parsed is None:
        found = f"the ending .{_ending(name)}" if _ending(name) else "no ending"
        expected = ", ".join(f".{format}" for format in FORMATS)
        raise DataError(
            f"{origin}: expected a file ending of {expected} (or with .gz), got {found}"
        )
    return parsed


# --- reading --------------------------------------------------------------------------------------


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise DataError(f"{path}: expected a file, got a folder") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _read_stream(stream: Stream) -> bytes:
    # The bytes below a text stream: its own decoding would change line breaks inside quoted fields.
    content: str | bytes = getattr(stream, "buffer", stream).read()
    if isinstance(content, str):
        # Surrogates pass here; decoding reports them, as it does any byte that is not UTF-8.
        return content.encode("utf-8", "surrogatepass")
    return content


def _decompress(data: bytes, origin: str) -> bytes:
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{origin}: expected gzip, got a broken or other file ({error})") from error


# --- writing --------------------------------------------------------------------------------------


def _write_file(data: bytes, path: Path) -> None:
    target = path.resolve()  # a link stays a link
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(data)  # /dev/stdout, a pipe: nothing that could be replaced
        else:
            replace_file(data, target)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from error


def replace_file(data: bytes, target: Path) -> None:
    """Write a file whole or not at all; until then it is beside it, `.NAME.1a2b3c4d.tmp`."""
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _write_stream(data: bytes, stream: Any, format: str) -> None:
    binary = getattr(stream, "buffer", None)
    if binary is None and isinstance(stream, io.TextIOBase):
        if format == "parquet":
            raise DataError("parquet is binary and the stream takes text; write it to a file")
        stream.write(data.decode("utf-8"))
        return
    stream.flush()
    (binary or stream).write(data)
    stream.flush()
