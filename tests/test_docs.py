"""What README and pages tell people to type is understood as it stands there."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from sarsynth.commands import usage
from sarsynth.config import composition
from sarsynth.config.composition import CONF, check_jobs
from sarsynth.config.hydra_internals import parse_arguments
from sarsynth.errors import UserError

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"(?:python |(?<=\s))(train|generate|evaluate)\.py |sarsynth-(train|generate|evaluate) ")
NAMES = {
    "method=NAME": "method=lora",
    "data=NAME": "data=fusar",
    "stage=NAME": "stage=sar",
    "evaluate.also=PATH": "evaluate.also=sim",
}  # of the reader's own
ELSEWHERE = ("hydra/launcher=", "hydra.launcher.", "+hydra.launcher.")  # of an extra: tests/test_clusters.py


def tiny() -> list[str]:
    """The words that CONTRIBUTING calls TINY."""
    (found,) = re.findall(r"`TINY` stands for .*?\n`([^`]+)`", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    return shlex.split(found)


def typed(text: str) -> list[str]:
    """The lines of blocks of code, and what stands between ticks in prose."""
    blocks = re.findall(r"^```(?:sh|text)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in re.sub(r"\\\n\s*", "", block).splitlines()]
    return lines + [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", prose)]


def commands() -> list[tuple[str, tuple[str, ...]]]:
    """Every command of the three scripts in the pages, and in comments of the options: its script and its words."""
    found = {}
    for page in PAGES:
        for line in typed(page.read_text(encoding="utf-8")):
            if command := COMMAND.search(f"{line} "):
                found[command[1] or command[2], tuple(shlex.split(line[command.end() :], comments=True))] = page.name
    for file in CONF.rglob("*.yaml"):
        for line in re.findall(r"^# (python .*?)(?:, |$)", file.read_text(encoding="utf-8"), re.MULTILINE):
            _, script, *words = shlex.split(line)
            found[script.removesuffix(".py"), tuple(words)] = file.name
    return list(found)


def test_pages_have_commands_of_every_script_and_kind():
    assert len(commands()) > 40
    assert {script for script, _ in commands()} == set(usage.SCRIPTS)
    assert ("evaluate", ("-m", "experiment=smoke")) in commands()  # from a block
    assert ("train", ("-m", "experiment=figure_a1")) in commands()  # from a comment of an option
    assert ("evaluate", ("method=lora", "TINY")) in commands()  # from prose


@pytest.mark.parametrize("script", usage.SCRIPTS)
def test_what_pages_tell_to_type_composes(script: str, monkeypatch):
    """Each word in one command at least, the longest first, and the first job of a sweep."""
    monkeypatch.setattr(composition, "_jobs", lambda script, arguments, search: [arguments.overrides])
    monkeypatch.setattr(composition, "check_folders", lambda settings: None)  # the reader's own, and not here
    seen: set[str] = set()
    for words in sorted({_filled_in(words) for name, words in commands() if name == script}, key=len, reverse=True):
        if seen.issuperset(words):
            continue
        seen.update(words)
        arguments = parse_arguments(words)
        try:
            assert arguments.help or check_jobs(script, arguments)
        except UserError as error:
            pytest.fail(f"{script} {shlex.join(words)}: {error}")


def _filled_in(words: tuple[str, ...]) -> tuple[str, ...]:
    """A command with what is left to the reader."""
    kept: list[str] = []
    for word in words:
        key, _, value = word.partition("=")
        if (CONF / key).is_dir() and "," in value:  # the other jobs differ by nothing else
            assert "-m" in words, "a sweep"
            assert [one for one in value.split(",") if not (CONF / key / f"{one}.yaml").is_file()] == [], word
            word = f"{key}={value.partition(',')[0]}"
        elif "-m" in words and re.match(r"[\w.+-]+,", value):
            word = f"{key}={value.partition(',')[0]}"
        if not word.startswith(ELSEWHERE) and not word.endswith(("…", "...")):
            kept += tiny() if word == "TINY" else [NAMES.get(word, word)]
    return tuple(kept)


# --- Messages ---------------------------------------------------------------------------------------------------------


def written(node: ast.AST) -> str | None:
    """A text as the code has it, an ellipsis where a value goes; None if it is no text."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return f"{written(left) or '…'}{written(right) or '…'}"
    return None


def test_messages_on_the_page_are_those_of_the_code():
    files = (ROOT / "sarsynth").rglob("*.py")
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    texts = "\n".join({text.replace("\n", " ") for text in map(written, nodes) if text})
    page = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^\| `(.*?)` \|", page, re.MULTILINE)
    assert len(messages) > 50 and len(set(messages)) == len(messages)
    assert [one for one in messages if not re.search(re.escape(one).replace("…", ".*"), texts)] == []
