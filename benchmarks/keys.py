"""Write docs/keys.md: every key of the settings with type, default and meaning, and every option of a group.

    python benchmarks/keys.py

Types are those of the models in `sarsynth/config`, defaults what Hydra composes, meanings the comments beside keys in
`conf`, or the lines of `MEANINGS` for keys whose value stands in several files or in none. tests/test_keys.py says when
the page is out of date, or a key has no meaning.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from sarsynth.config.components import Component
from sarsynth.config.composition import CONF, compose
from sarsynth.config.schema import Settings
from sarsynth.config.section import Section

import hydra
import yaml
from annotated_types import Ge, Gt, Interval, Le, Lt, MinLen, MultipleOf
from omegaconf import OmegaConf

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "keys.md"
MEANINGS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
SCRIPTS = {"train": ["stage=data"], "generate": [], "evaluate": []}
WORDS = {int: "whole number", float: "number", str: "text", bool: "`true`, `false`", NoneType: "`null`"}
WORDS |= {dict: "mapping", tuple: "list", list: "list", Any: "any"}
SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "multiple_of": "a multiple of"}
UNSET = "(none)"


def page() -> str:
    """Lay the whole page out."""
    comments, defaults = _comments(), _defaults()
    lines = [MEANINGS["head"].strip(), ""]
    top = [(name, annotation) for name, annotation in _fields(Settings) if _model(annotation) is None]
    lines += ["## Keys of their own", "", *_table([("", name, kind) for name, kind in top], defaults, comments)]
    for name, annotation in _fields(Settings):
        model = _model(annotation)
        if model is not None:
            about = re.sub(r"\s+", " ", (model.__doc__ or "").strip())
            lines += [f"## {name}", "", about, ""]
            lines += _options(name)
            lines += _table(list(_walk(f"{name}.", model)), defaults, comments)
    return "\n".join(lines).rstrip() + "\n"


def every_key() -> list[str]:
    """Every key of the settings, dotted."""
    return [above + name for above, name, _ in _walk("", Settings)]


def meaning(key: str, comments: dict[str, str]) -> str:
    """What a key is for; empty if nobody says."""
    told = MEANINGS["keys"].get(key) or comments.get(key)
    if told:
        return told
    for pattern, text in MEANINGS["alike"].items():
        if re.fullmatch(pattern, key):
            return text
    return ""


def _walk(above: str, model: type[Section]) -> Iterator[tuple[str, str, Any]]:
    """Each key below a section: what stands before its name, its name, and its annotation."""
    for name, annotation in _fields(model):
        inner = _model(annotation)
        if inner is not None and issubclass(inner, Component):
            yield above if name in PARTS else f"{above}{name}.", "_target_", annotation
        elif inner is not None:
            yield from _walk(f"{above}{name}.", inner)
        elif name != "options" or not issubclass(model, Component):
            yield above, "_target_" if name == "target" else name, annotation


PARTS = ("reader", "describer", "rule")  # sections of the models whose keys stand in the section above, in files


def _fields(model: type[Section]) -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        yield name, Annotated[(kind, *field.metadata)] if field.metadata else kind


def _model(annotation: Any) -> type[Section] | None:
    """The section that an annotation stands for; None for plain values."""
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else [annotation]
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)


def written(annotation: Any) -> str:
    """Say in words what a key may hold."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        bounds = [text for mark in parts[1:] for text in _bounds(mark)]
        return " ".join([written(parts[0]), ", ".join(bounds)]).strip()
    if origin is Literal:
        return ", ".join(f"`{word}`" for word in parts)
    if origin in (Union, UnionType):
        return " or ".join(written(part) for part in parts)
    if origin is tuple:
        several = parts[-1] is Ellipsis
        return f"list of {written(parts[0])}" if several else f"list of {len(parts)}: {written(parts[0])}"
    if origin is dict:
        return f"mapping to {written(parts[1])}"
    if isinstance(annotation, type) and issubclass(annotation, Component):
        return f"{annotation.what}, dotted path"
    return WORDS.get(annotation, str(annotation))


def _bounds(mark: Any) -> list[str]:
    if isinstance(mark, Interval | Ge | Gt | Le | Lt | MultipleOf):
        limits = {key: getattr(mark, key, None) for key in SIGNS}
        return [f"{SIGNS[key]} {_number(limit)}" for key, limit in limits.items() if limit is not None]
    if isinstance(mark, MinLen) or not hasattr(mark, "metadata"):
        return []
    return [text for inner in mark.metadata for text in _bounds(inner)]


def _number(limit: float) -> str:
    return "2³²" if limit == 2**32 else f"{limit:g}"


def _defaults() -> dict[str, dict[str, Any]]:
    """Composed values by dotted key: of the defaults, and what `base=sd15` or `classifier=resnet50` make of them."""
    found: dict[str, dict[str, Any]] = {}
    for label, more in (("", []), ("sd15", ["base=sd15"]), ("resnet50", ["classifier=resnet50"])):
        flat: dict[str, Any] = {"stage": UNSET}
        for script, needed in SCRIPTS.items():
            with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
                config = compose(script, [*needed, *more])
            flat = dict(_flat(OmegaConf.to_container(config), "")) | flat
        found[label] = flat
    return found


def _flat(section: dict[Any, Any], above: str) -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        yield f"{above}{key}", value
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")


def _default(key: str, defaults: dict[str, dict[str, Any]]) -> str:
    plain = defaults[""].get(key, UNSET)
    lines = [_value(plain)]
    for label in ("sd15", "resnet50"):
        other = defaults[label].get(key, UNSET)
        if other != plain:
            lines.append(f"{label}: {_value(other)}")
    return "<br>".join(lines)


def _value(value: Any) -> str:
    if isinstance(value, str) and value == UNSET:
        return ""
    if isinstance(value, dict) and len(str(value)) > 60:
        return "see the file"
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    text = text.replace("|", "\\|")
    return f"`{text}`" if text else "empty"


def _table(rows: list[tuple[str, str, Any]], defaults: Any, comments: dict[str, str]) -> list[str]:
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for above, name, annotation in rows:
        key = above + name
        told = meaning(key, comments).replace("|", "\\|")
        lines.append(f"| `{key}` | {written(annotation)} | {_default(key, defaults)} | {told} |")
    return [*lines, ""] if rows else []


def _options(group: str) -> list[str]:
    """The options of a group with their own comments."""
    files = sorted((CONF / group).glob("*.yaml"))
    if not files:
        return []
    lines = [f"| `{group}=` | what it is |", "|---|---|"]
    for file in files:
        text = file.read_text(encoding="utf-8").splitlines()
        heads = [line.lstrip("# ") for line in text if line.startswith("# ") and not line.startswith("# @")]
        about = heads[0] if heads else MEANINGS["options"].get(f"{group}={file.stem}", "")
        lines.append(f"| `{file.stem}` | {about} |".replace("  ", " "))
    return [*lines, ""]


def _comments() -> dict[str, str]:
    """What stands beside keys in the files of `conf`, by dotted key; the first file that says something counts."""
    found: dict[str, str] = {}
    files = [CONF / f"{name}.yaml" for name in ("study", *SCRIPTS)]
    for file in [*files, *sorted(CONF.glob("*/*.yaml")), *sorted(CONF.glob("contours/edges/*.yaml"))]:
        above = [] if file.parent == CONF else [file.relative_to(CONF).parts[0]]
        path: list[tuple[int, str]] = []
        for line in file.read_text(encoding="utf-8").splitlines():
            if not (key := re.match(r"(\s*)(?:!!str )?([\w\"]+):(?:\s|$)", line)):
                continue
            indent, name = len(key[1]), key[2].strip('"')
            path = [(depth, one) for depth, one in path if depth < indent] + [(indent, name)]
            comment = re.search(r"\s#\s+(.*)$", line)
            if comment:
                found.setdefault(".".join([*above, *(one for _, one in path)]), comment[1].strip())
    return found


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    unsaid = [key for key in every_key() if not meaning(key, _comments())]
    print(f"{PAGE}: {len(every_key())} keys" + (f"; without a meaning: {', '.join(unsaid)}" if unsaid else ""))
