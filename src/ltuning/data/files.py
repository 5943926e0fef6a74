"""Tables in files and streams: endings, compression, and writing without half-written files."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ltuning.data.formats import FORMATS, decode_table, encode_table
from ltuning.data.tables import AS_FOUND, Dialect, Table, encoding_of
from ltuning.errors import DataError
from ltuning.locks import followed, temporary_file
from ltuning.suggestions import unknown

Stream = IO[str] | IO[bytes]

# Text shrinks to a third or a tenth; what unpacks to more than both fills the memory on purpose.
_UNPACKED_AT_LEAST = 2**28
_UNPACKED_TIMES = 200
_UNPACKED_AT_ONCE = 2**20


def read_table(
    source: str | Path | Stream, format: str | None = None, dialect: Dialect = AS_FOUND
) -> Table:
    """Read every row of a file or of an open stream.

    Args:
        source: a path, or a text or binary stream such as ``sys.stdin``.
        format: ``csv``, ``tsv``, ``jsonl``, ``parquet``, ``txt`` or ``conll``, each also with
            ``.gz``; None: the file's ending says it. Needed for a stream and for a pipe.
        dialect: the encoding and the delimiter; by default what the file itself says.

    Raises:
        DataError: a missing file, an unknown ending, or content that is not in the format.
    """
    if isinstance(source, str | Path):
        path = local_path(source)
        origin, data = str(source), _read_bytes(path, pipes=format is not None)
        plain, compressed = _split_format(format) if format else _format_of_name(path.name, origin)
    else:
        origin = str(getattr(source, "name", "<stream>"))
        if format is None:
            raise DataError(
                f"{origin}: a stream has no file ending; say its format, "
                f"one of {', '.join(FORMATS)}"
            )
        plain, compressed = _split_format(format)
        data = _read_stream(source, dialect)
    return decode_table(_decompress(data, origin) if compressed else data, plain, origin, dialect)


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
        write_file(gzip.compress(data, mtime=0) if compressed else data, path)
    else:
        _write_stream(encode_table(table, table.format), target, table)


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
        hint = "; write JSON as JSON lines, one object per line (.jsonl)"
        raise DataError(
            f"{origin}: expected a file ending of {expected} (or with .gz), got {found}"
            f"{hint if _ending(name).startswith('json') else ''}"
        )
    return parsed


# --- reading --------------------------------------------------------------------------------------


@contextmanager
def said(path: str | Path, what: str) -> Iterator[None]:
    """Turns what the system refuses into words."""
    try:
        yield
    except DataError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        # ValueError: a name with a NUL in it; RuntimeError: links in a circle.
        if what == "read" and isinstance(error, FileNotFoundError):
            raise DataError(f"{path}: no such file") from error
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be {what} ({reason})") from error


def _read_bytes(path: Path, pipes: bool) -> bytes:
    with said(path, "read"):
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise DataError(f"{path}: expected a file, got a folder")
        # A pipe without a writer waits for ever, and some devices never end.
        if not stat.S_ISREG(mode) and not (pipes and stat.S_ISFIFO(mode)):
            kind = "a pipe" if stat.S_ISFIFO(mode) else "a device or socket"
            raise DataError(f"{path}: expected a file, got {kind}; write the data to a file")
        return path.read_bytes()


def _read_stream(stream: Stream, dialect: Dialect) -> bytes:
    # The bytes below a text stream: its own decoding would change line breaks inside quoted fields.
    content: str | bytes = getattr(stream, "buffer", stream).read()
    if isinstance(content, str):
        if dialect.encoding is not None:
            raise DataError(
                f"expected a stream of bytes for the encoding {dialect.encoding}, got one of text; "
                "leave the encoding out"
            )
        # Surrogates pass here; decoding reports them, as it does any byte that is not UTF-8.
        return content.encode("utf-8", "surrogatepass")
    return content


def _decompress(data: bytes, origin: str) -> bytes:
    limit = max(_UNPACKED_AT_LEAST, _UNPACKED_TIMES * len(data))
    parts, size = [], 0
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            while part := file.read(_UNPACKED_AT_ONCE):
                parts.append(part)
                size += len(part)
                if size > limit:
                    raise DataError(
                        f"{origin}: {len(data):,} bytes of gzip unpack to more than {limit:,}, "
                        "which would fill the memory; if they are good, unpack the file first"
                    )
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{origin}: expected gzip, got a broken or other file ({error})") from error
    return b"".join(parts)


# --- writing --------------------------------------------------------------------------------------


def check_target(path: str | Path) -> None:
    """Whether a file could be written there, as far as can be told before there is something to.

    Raises:
        DataError: no such folder, one that cannot be written to, a folder in the file's place, or a
            name that the system does not take.
    """
    with said(path, "written"):
        target = local_path(path)
        if not target.parent.is_dir():
            raise DataError(f"{path}: there is no folder {target.parent} to write it to; make it")
        if target.is_dir():
            raise DataError(f"{path}: expected the name of a file, got a folder; add a file name")
        # A file is put in the place of another, beside which it is written.
        touched = target if _is_no_file(target) else followed(target).parent
        if not os.access(touched, os.W_OK):
            raise DataError(f"{path}: cannot be written (no permission for {touched})")


def check_new_file(path: str | Path, overwrite: bool) -> None:
    """As `check_target`, of a file that may be there already only if it is to be replaced.

    Raises:
        DataError: it is there, or could not be written.
    """
    check_target(path)
    if local_path(path).is_file() and not overwrite:
        raise DataError(f"{path} exists already: choose another file, or add --overwrite")


def check_new_json(path: str | Path, overwrite: bool) -> None:
    """As `check_new_file`, of a file that JSON is written to.

    Raises:
        DataError: its ending says another format, too.
    """
    check_new_file(path, overwrite)
    if Path(path).suffix.lower() != ".json" and not _is_no_file(local_path(path)):
        raise DataError(f"{path}: expected a file ending of .json, which is what is written")


def write_file(data: bytes, path: str | Path) -> None:
    """Write a file whole or not at all, with the mode of the one it replaces; a link stays a link.

    Raises:
        DataError: it cannot be written.
    """
    with said(path, "written"):
        target = local_path(path)
        if _is_no_file(target):
            target.write_bytes(data)
        else:
            replace_file(data, followed(target))


def _is_no_file(path: Path) -> bool:
    """Whether it is a pipe or a device, as `/dev/stdout` may be, which cannot be replaced."""
    return path.exists() and not path.is_file()


def replace_file(data: bytes, target: Path) -> None:
    """Write a file whole or not at all; until then it is beside it, `.NAME.1a2b3c4d.tmp`."""
    with temporary_file(target) as (temporary, file):
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        if os.name == "nt":
            file.close()  # Windows renames no open file
        os.replace(temporary, target)


def _write_stream(data: bytes, stream: Any, table: Table) -> None:
    binary = getattr(stream, "buffer", None)
    if binary is None and isinstance(stream, io.TextIOBase):
        if table.format == "parquet":
            raise DataError("parquet is binary and the stream takes text; write it to a file")
        stream.write(data.decode(encoding_of(table, table.format)))
        return
    stream.flush()
    (binary or stream).write(data)
    stream.flush()
