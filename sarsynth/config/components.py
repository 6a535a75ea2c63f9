"""A class that the configuration names by `_target_`, with the arguments that its constructor gets.

Classes come from `PACKAGES` alone, and from those that the environment variable SARSYNTH_PACKAGES adds, so that a
configuration from somebody else cannot start what it likes. All is checked from source, before anything is imported.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from pydantic import Field, model_validator

from sarsynth.config.section import Section, Text
from sarsynth.config.signatures import Parameter, definition, signature
from sarsynth.errors import UserError, nearest, one_line

PACKAGES = ("diffusers", "lightning", "pytorch_lightning", "sarsynth", "timm", "torch", "torchvision", "wandb")
VARIABLE = "SARSYNTH_PACKAGES"

# Hydra's own keys beside a `_target_`. They would build something else than the object that is asked for: a function
# that is yet to be called, one with arguments that no name checks, or one that is handed mappings unbuilt.
HYDRA_KEYS = ("_args_", "_convert_", "_partial_", "_recursive_")
NOT_ALLOWED = "is a key of Hydra's that is not allowed here; remove it: all arguments of a class are said by name"


class Component(Section):
    """A class by name and the arguments its constructor gets; options may name classes too, at any depth."""

    what: ClassVar[str] = "class"  # what such a class is called
    provides: ClassVar[tuple[str, ...]] = ()  # methods and properties that tell one

    target: Text = Field(alias="_target_")
    options: dict[str, Any]

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, keys: Any) -> Any:
        if not isinstance(keys, Mapping):
            return keys
        own = {"_target_", *cls.model_fields} - {"target", "options"}
        return {k: keys[k] for k in keys if k in own} | {"options": {k: keys[k] for k in keys if k not in own}}

    @property
    def arguments(self) -> dict[str, Any]:
        """The options, but for numbers where a text is due, such as the name of a folder: they are texts."""
        texts = {parameter.name for parameter in signature(self.target) if parameter.is_text}
        return {key: str(value) if key in texts and _is_number(value) else value for key, value in self.options.items()}

    def load(self) -> type[Any]:
        """Import the class."""
        return get_class(self.target)

    def check_kind(self) -> None:
        """Refuse a class of another kind than its key is for, before anything is called.

        Raises:
            UserError: It is one, or cannot be imported; the message begins with `_target_=`.
        """
        try:
            found = self.load()
        except (ImportError, ValueError) as error:
            raise UserError(f"_target_={self.target} cannot be imported: {one_line(error)}; install it") from error
        if lacking := self.lacking(found):
            raise UserError(f"_target_={self.target}, without `{lacking}`: it is no {self.what}; name another class")

    def lacking(self, found: type[Any]) -> str | None:
        """What a class has not that one for this key has; None if it is one."""
        return next((name for name in self.provides if not hasattr(found, name)), None)

    def build(self, **more: Any) -> Any:
        """Construct it from the configured arguments and those that only the caller knows."""
        try:
            return instantiate({"_target_": self.target, **self.arguments}, **more, _convert_="all")
        except InstantiationException as error:  # Hydra's, around what the class itself raised
            raise error.__cause__ or error from None


class Logger(Component):
    """A logger of Lightning's; what of the store a run of W&B gets: `artifacts`, their cards or their files too."""

    what = "logger"
    provides = ("log_metrics", "log_hyperparams", "finalize")

    artifacts: Literal["cards", "files"] | None = None

    @property
    def is_wandb(self) -> bool:
        """Whether it is W&B's, which alone has names, pictures, tables and artifacts."""
        return self.target.endswith("WandbLogger")

    @property
    def said(self) -> dict[str, Any]:
        """What the settings call a run of W&B, as it takes that: text, even where it was written as a number."""
        if not self.is_wandb:
            return {}
        keys = ("name", "group", "job_type", "notes")
        said: dict[str, Any] = {key: str(self.options[key]) for key in keys if self.options.get(key) is not None}
        if (tags := self.options.get("tags")) is not None:
            said["tags"] = [str(tag) for tag in (tags if isinstance(tags, list) else [tags])]
        return said


class Radiometry(Component):
    """How SAR pixels become grey levels; see `sarsynth.data.radiometry`."""

    what = "radiometry"
    provides = ("fit",)

    def lacking(self, found: type[Any]) -> str | None:
        """What a class has not: one that needs no fitting has levels as it is."""
        return None if hasattr(found, "levels") else super().lacking(found)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def split_off(section: type[Section], keys: Any, name: str) -> Any:
    """Gather the keys that a section does not have into its component of that name."""
    if not isinstance(keys, Mapping):
        return keys
    own = set(section.model_fields) - {name}
    return {k: keys[k] for k in keys if k in own} | {name: {k: keys[k] for k in keys if k not in own}}


def targets(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Find every `_target_` inside a value, with its dotted key."""
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    if isinstance(value, Mapping):
        for name, part in value.items():
            if name == "_target_":
                yield f"{key}._target_", part
            else:
                yield from targets(f"{key}.{name}", part)


def check_package(key: str, target: Any, *more: str) -> None:
    """Refuse a class of a package that a configuration may not name.

    Args:
        key: The dotted key of its `_target_`.
        target: Its dotted path.
        more: Packages that may be named here besides.

    Raises:
        UserError: It may not.
    """
    package = str(target).partition(".")[0]
    allowed = {*PACKAGES, *more, *os.environ.get(VARIABLE, "").replace(",", " ").split()} - sys.stdlib_module_names
    if package in allowed:
        return
    remedy = f"to allow one of your own, or one that you trust, set the environment variable {VARIABLE}={package}"
    raise UserError(
        f"{key}={target} is of no package that a configuration may name ({', '.join(sorted(allowed))}); "
        + ("nothing of Python itself can be named" if package in sys.stdlib_module_names else remedy)
    )


def check_component(
    key: str,
    target: Any,
    options: Mapping[str, Any],
    of_section: frozenset[str] = frozenset(),
    of_run: frozenset[str] = frozenset(),
) -> None:
    """Check a class and its arguments, and those of every class inside these, against their source.

    Args:
        key: The dotted key of the section that names it.
        target: Dotted path of the class.
        options: Its arguments.
        of_section: The section's other keys.
        of_run: Arguments that the run itself gives.

    Raises:
        UserError: The class is not to be named or not there, or an argument is unknown, missing or out of place.
    """
    known = {parameter.name: parameter for parameter in _signature(f"{key}._target_", target)}
    allowed = (known.keys() - of_run) | of_section
    for name, value in options.items():
        if name in HYDRA_KEYS:
            raise UserError(f"{key}.{name} {NOT_ALLOWED}")
        if name in of_run:
            raise UserError(f"{key}.{name} is decided by the run itself; remove it")
        if name not in allowed:
            raise UserError(f"unknown key {key}.{name}; {nearest(name, allowed, key)}")
        choices = known[name].choices
        if choices and isinstance(value, str) and value not in choices:
            raise UserError(f"{key}.{name}={value} is not a value of {key}.{name}; {nearest(value, choices)}")
        if not known[name].takes(value):
            raise UserError(_of_another_kind(f"{key}.{name}", value, known[name]))
        _check_inside(f"{key}.{name}", value)
    for parameter in known.values():
        if parameter.required and parameter.name not in options.keys() | of_run:
            raise UserError(f"key {key}.{parameter.name} is missing, which {target} needs")


def _of_another_kind(key: str, value: Any, parameter: Parameter) -> str:
    kinds = f"{key}={value} should be a {' or '.join(sorted(parameter.kinds - {'null'}))}"
    hint = f"; a text with signs of Hydra's grammar is quoted: '{key}=\"...\"'"
    return kinds + (hint if parameter.is_text and value is not None else "")


def _check_inside(key: str, value: Any) -> None:
    """Check every class that is named inside an argument."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping):
        return
    if "_target_" in value:
        check_component(key, value["_target_"], {k: v for k, v in value.items() if k != "_target_"})
        return
    for name, part in value.items():
        if name in HYDRA_KEYS:
            raise UserError(f"{key}.{name} {NOT_ALLOWED}")
        _check_inside(f"{key}.{name}", part)


def _signature(key: str, target: Any) -> Sequence[Parameter]:
    """The parameters of a class that may be named."""
    check_package(key, target)
    try:
        source, parameters = definition(target), signature(target)
    except UserError as error:
        raise UserError(f"{key}={error}") from error
    check_package(key, f"{source.module}.{source.node.name}")  # where it is written, if it is only imported there
    if not source.is_class:
        raise UserError(f"{key}={target} is a function; name a class")
    return parameters
