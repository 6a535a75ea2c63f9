"""docs/keys.md is of these settings, each of which is explained."""

import re

import keys
import pytest

from sarsynth.config.section import Count, Seed, Share


@pytest.fixture(scope="module")
def comments() -> dict[str, str]:
    return keys._comments()


def test_the_page_is_of_these_settings():
    assert keys.PAGE.read_text(encoding="utf-8") == keys.page(), "run python benchmarks/keys.py"


def test_every_key_has_a_meaning(comments: dict[str, str]):
    unsaid = [key for key in keys.every_key() if not keys.meaning(key, comments)]
    assert unsaid == [], "say it in a comment beside the key in conf, or in benchmarks/keys.yaml"


def test_no_meaning_is_of_a_key_that_is_gone():
    known = keys.every_key()
    assert set(keys.MEANINGS["keys"]) <= set(known)
    assert [one for one in keys.MEANINGS["alike"] if not any(re.fullmatch(one, key) for key in known)] == []


def test_types_and_meanings_are_those_of_the_models_and_files(comments: dict[str, str]):
    assert keys.written(Count) == "whole number ≥ 1"
    assert keys.written(Share) == "number ≥ 0, ≤ 1"
    assert keys.written(tuple[Seed, ...]) == "list of whole number ≥ 0, < 2³²"
    assert comments["data.max_bad"].startswith("share of images that may be unreadable")
    page = keys.PAGE.read_text(encoding="utf-8")
    assert "| `base.image_size` | whole number ≥ 8, a multiple of 8 | `64`<br>sd15: `256` |" in page
    assert len(re.findall(r"^\| `[\w.]+` \| ", page, re.MULTILINE)) >= len(keys.every_key())
