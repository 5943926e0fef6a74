from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

import pytest

from ltuning.data.files import replace_file
from ltuning.locks import followed, temporary_folder


def names(folder: Path) -> set[str]:
    return set(os.listdir(folder))


def test_what_a_killed_process_left_of_a_file_goes_with_the_next_write(tmp_path: Path) -> None:
    strangers = {".table.csv.mine.tmp", ".other.csv.1a2b3c4d.tmp", "table.csv.1a2b3c4d.tmp"}
    for name in (*strangers, ".table.csv.1a2b3c4d.tmp", ".table.csv.99999999.tmp"):
        (tmp_path / name).write_text("half")
    with (tmp_path / ".table.csv.99999999.tmp").open() as written:
        fcntl.flock(written, fcntl.LOCK_EX)
        replace_file(b"whole", tmp_path / "table.csv")
        assert names(tmp_path) == strangers | {"table.csv", ".table.csv.99999999.tmp"}
    replace_file(b"new", tmp_path / "table.csv")
    assert names(tmp_path) == strangers | {"table.csv"}
    assert (tmp_path / "table.csv").read_bytes() == b"new"


def test_what_a_killed_process_left_of_a_folder_goes_with_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("ltuning-dead", "ltuning-mine"):
        (tmp_path / name / "files").mkdir(parents=True)
        (tmp_path / name / ".lock").touch()
    (tmp_path / "ltuning-mine" / "notes.txt").touch()
    with temporary_folder() as folder, temporary_folder() as second:
        (folder / "weights").touch()
        assert {folder.parent.name, second.parent.name} < names(tmp_path)
        assert "ltuning-dead" not in names(tmp_path)
    assert names(tmp_path) == {"ltuning-mine"}


def test_links_in_a_circle_lead_nowhere(tmp_path: Path) -> None:
    circle, link = tmp_path / "circle", tmp_path / "link"
    circle.symlink_to(circle)
    link.symlink_to(tmp_path / "new")
    assert followed(link) == (tmp_path / "new").resolve()
    for path in (circle, circle / "within"):
        with pytest.raises(RuntimeError, match="Symlink loop"):
            followed(path)
