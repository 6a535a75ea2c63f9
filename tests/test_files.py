"""Files are written whole or not at all."""

import json
from pathlib import Path

import pytest

from sarsynth.files import clear_staging, staged, write_json, write_text


def test_a_writer_that_fails_leaves_the_file_as_it_was(tmp_path: Path):
    file = tmp_path / "page.html"
    write_text(file, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(file, "half of it, then a lone surrogate: \ud800")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_draft_has_the_name_of_its_file_and_two_writers_do_not_meet(tmp_path: Path):
    file = tmp_path / "adapter.safetensors"
    with staged(file) as first, staged(file, durable=False) as second:
        assert first.name == second.name == file.name
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert file.read_text() == "first", "the last one to finish wins"
    assert list(tmp_path.iterdir()) == [file]


def test_no_json_is_written_of_what_json_cannot_hold(tmp_path: Path):
    file = tmp_path / "figures.json"
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(file, {"mean": float("nan")})
    write_json(file, {"class": "Ölschiff"})
    assert json.loads(file.read_text()) == {"class": "Ölschiff"}
    assert list(tmp_path.iterdir()) == [file]


def test_what_a_killed_writer_left_is_cleared(tmp_path: Path):
    left = tmp_path / "deep" / ".staged-x1"
    left.mkdir(parents=True)
    (left / "card.json").write_text("half")
    clear_staging(tmp_path)
    assert list((tmp_path / "deep").iterdir()) == []
