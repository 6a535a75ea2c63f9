"""A composed configuration is checked here, before anything heavy is imported: one line says what is wrong.

It names the key, and what is near or mends it.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from sarsynth.config.components import Component, Logger, check_component
from sarsynth.config.image_sections import ImageSet, Prompt, Slot
from sarsynth.config.schema import Settings
from sarsynth.config.second_set import KEY, with_second_set
from sarsynth.errors import UserError, nearest

# Arguments of loggers that follow from the run.
LOGGER_OF_RUN = frozenset({"save_dir", "dir", "version", "id", "experiment"})

OF_TRAINER = (
    "; all else of Lightning's Trainer follows from the run, and how long trainings are from train.STAGE.max_steps and "
    "classifier.epochs"
)
SET_BY_BASE = ("adapter", "train", "contours", "generate")
OF_BASE = "; it is set with the base: a base option of your own sets it too, or begins with `defaults: [sd15, _self_]`"


def check(config: DictConfig) -> Settings:
    """Turn a composed configuration into settings.

    Raises:
        UserError: A key is unknown or missing, or a value is out of place; the message names the key and what is near.
    """
    try:
        plain = OmegaConf.to_container(with_second_set(config), resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = str(error.full_key)
        choices = _choices(_annotation(Settings, key.split(".")))
        raise UserError(f"{key} is not set; say {key}={'|'.join(choices) or '...'}") from error
    except OmegaConfBaseException as error:
        message = str(error).splitlines()[0].removeprefix("UserError raised while resolving interpolation: ")
        raise UserError(f"{error.full_key}: {message}") from error
    try:
        settings = Settings.model_validate(plain)
    except ValidationError as error:
        raise UserError(_explain(error)) from error
    for key, component, of_section, of_run in components(settings):
        options = component.options | (component.said if isinstance(component, Logger) else {})
        check_component(key, component.target, options, of_section, of_run)
    settings.prompt.build()
    return settings


def check_folders(settings: Settings) -> None:
    """Refuse image sets in folders that are not there: told now, and not by readers when all else is loaded.

    Raises:
        UserError: There is no such folder.
    """
    if settings.report:
        return
    roots = {"contours.root": settings.contours.root}
    for slot, images in image_sets(settings).items():
        reader = images.reader
        if reader.target.startswith("sarsynth."):  # what a root is to others, they know
            roots[f"{slot}.root"] = reader.arguments.get("root")
    for key, root in roots.items():
        if root == "":
            raise UserError(f"{key} is empty; name a folder")
        if isinstance(root, str) and not os.path.lexists(os.path.expanduser(root)):
            raise UserError(f"{key}={root}: no such folder")


def image_sets(settings: Settings) -> dict[str, ImageSet]:
    """The image sets that the settings name, by key."""
    sets = {slot: getattr(settings, slot) for slot in get_args(Slot)}
    return sets | ({KEY: settings.evaluate.also} if settings.evaluate.also else {})


def scale_warning(settings: Settings) -> str | None:
    """Say so if w1 + w2 of what the method uses lies outside (0.5, 2), the paper's range; None if all is well."""
    if settings.method.tunes != "adapter":
        return None
    w1, w2 = settings.generate.scales
    total = w2 + (w1 if settings.method.below else 0.0)
    if 0.5 < total < 2:
        return None
    terms = "w1 + w2" if settings.method.below else "w2"
    return f"generate.scales: {terms} = {total:g} lies outside (0.5, 2), the range in which the paper's images hold up"


def components(settings: Settings) -> Iterator[tuple[str, Component, frozenset[str], frozenset[str]]]:
    """Each class that the settings name: its section's key, and the section's other keys, and what the run decides."""
    none: frozenset[str] = frozenset()
    for slot, images in image_sets(settings).items():
        yield slot, images.reader, frozenset(type(images).model_fields) - {"reader"}, none
    yield "radiometry", settings.radiometry, none, none
    if settings.prompt.describer:
        yield "prompt", settings.prompt.describer, frozenset(Prompt.model_fields) - {"describer"}, none
    yield "sampler", settings.sampler, none, none
    if settings.filter:
        yield "filter", settings.filter.rule, frozenset({"name"}), none
    if settings.logger:
        yield "logger", settings.logger, frozenset({"artifacts"}), LOGGER_OF_RUN


def _explain(error: ValidationError) -> str:
    """The most telling of pydantic's errors, in one line."""
    order = ["extra_forbidden", "value", "literal_error", "missing"]

    def rank(detail: Any) -> int:
        kind = detail["type"] if detail["type"] in order else "value"
        # A union complains once for each of its branches; a word was meant to be one of the words.
        misread = isinstance(detail["input"], str) != (kind == "literal_error")
        return order.index(kind) + len(order) * (kind in ("value", "literal_error") and misread)

    first = min(error.errors(include_url=False), key=rank)
    keys = [str(part) for part in first["loc"] if "[" not in str(part)]  # `dict[str,int]` names a branch, not a key
    key, value = ".".join(keys), first["input"]
    match first["type"]:
        case "extra_forbidden":
            section = keys[:-1]
            hint = nearest(keys[-1], _fields(_annotation(Settings, section)), ".".join(section))
            rest = OF_TRAINER if section == ["trainer"] else ""
            return f"unknown key {key}; {hint}{rest}"
        case "missing":
            return f"key {key} is missing" + (OF_BASE if keys[0] in SET_BY_BASE and not keys[-1].isdigit() else "")
        case "value_error":
            return (f"{key}: " if key else "") + first["msg"].removeprefix("Value error, ")
        case "literal_error":
            hint = nearest(str(value), _choices(_annotation(Settings, keys)))
            return f"{key}={value} is not a value of {key}; {hint}"
        case "tuple_type" | "list_type":
            return f"{key}={value} should be a list: '{key}=[{value}]'"
    return f"{key}={value}: {first['msg'][0].lower()}{first['msg'][1:]}"


def _annotation(model: Any, keys: Sequence[str]) -> Any:
    """The type that a dotted key has, None if there is no such key."""
    for key in keys:
        if key.isdigit():  # a place in a list, whose type says what may stand there
            continue
        fields = _fields(model)
        if key not in fields:
            return None
        model = fields[key]
    return model


def _fields(annotation: Any) -> dict[str, Any]:
    """The keys that a section (or an optional one) has, and their types."""
    for model in (annotation, *get_args(annotation)):
        if isinstance(model, type) and issubclass(model, BaseModel):
            return {field.alias or name: field.rebuild_annotation() for name, field in model.model_fields.items()}
    return {}


def _choices(annotation: Any) -> list[str]:
    """The words that a type allows, however deep in a union they stand."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [word for part in get_args(annotation) for word in _choices(part)]
