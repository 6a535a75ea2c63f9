"""The parameters of a class, read from its source: importing it would take seconds and load torch."""

import ast
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sarsynth.errors import UserError, nearest

# Loggers that hand arguments on to a function, which knows their names.
HANDS_ON_TO = {"lightning.pytorch.loggers.wandb.WandbLogger": "wandb.sdk.wandb_init.init"}


# Kinds of values by how annotations call them.
KINDS = {
    "str": "text",
    "Path": "text",
    "int": "whole number",
    "float": "number",
    "bool": "true or false",
    "None": "null",
}
KINDS |= dict.fromkeys(("list", "tuple", "Sequence"), "list") | dict.fromkeys(("dict", "Mapping"), "mapping")


@dataclass(frozen=True)
class Parameter:
    """One argument.

    `choices` are the words of its `Literal`, empty if it takes any value; `kinds` those of `KINDS` that it takes, empty
    if its annotation does not tell.
    """

    name: str
    required: bool
    choices: tuple[str, ...]
    kinds: frozenset[str]

    @property
    def is_text(self) -> bool:
        """Whether a number is meant as it is written: the name of a folder may be 2024."""
        return "text" in self.kinds and not self.kinds & {"whole number", "number"}

    def takes(self, value: Any) -> bool:
        """Whether a value is of a kind that it takes, as far as its annotation tells."""
        if not self.kinds:
            return True
        match value:
            case None:
                return "null" in self.kinds
            case bool():
                return "true or false" in self.kinds
            case int() | float():
                whole = isinstance(value, int) and "whole number" in self.kinds
                return whole or "number" in self.kinds or self.is_text
            case str():
                return "text" in self.kinds
            case list() | tuple():
                return "list" in self.kinds
        return "mapping" in self.kinds or not isinstance(value, Mapping)


@dataclass(frozen=True)
class Definition:
    """Where a class or function is written: the module's dotted name, and its syntax tree there."""

    module: str
    node: ast.ClassDef | ast.FunctionDef

    @property
    def is_class(self) -> bool:
        """Whether it is a class."""
        return isinstance(self.node, ast.ClassDef)


@cache
def definition(target: str) -> Definition:
    """Find the source of a class or function.

    Args:
        target: Dotted path, also through modules that only re-export the name.

    Raises:
        UserError: There is no such module, or no such name in it.
    """
    if found := _definition(target):
        return found
    module = target.rpartition(".")[0]
    known = {f"{module}.{other}" for other in _public_names(module)}
    hint = nearest(target, known) if known else f"no module {module} with a class in it"
    raise UserError(f"{target} does not exist; {hint}")


@cache
def signature(target: str) -> tuple[Parameter, ...]:
    """List the parameters of a class's constructor, or of a function, without importing its module.

    Raises:
        UserError: There is no such module, or no such name in it.
    """
    source = definition(target)
    parameters = _parameters(source)
    if more := HANDS_ON_TO.get(f"{source.module}.{source.node.name}"):
        known = {parameter.name for parameter in parameters}
        parameters += [parameter for parameter in signature(more) if parameter.name not in known]
    return tuple(parameters)


@cache
def _syntax_tree(module: str) -> tuple[ast.Module, str] | None:
    """Parse a module; return its tree and the package that its relative imports start from."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top) if top else None
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return None
    files = [(Path(spec.origin or ""), "")] if not (rest or spec.submodule_search_locations) else []
    for folder in spec.submodule_search_locations or ():
        place = Path(folder, *rest)
        files += [(place / "__init__.py", module), (Path(f"{place}.py"), module.rpartition(".")[0])]
    for file, package in files:
        if file.suffix == ".py" and file.is_file():
            return ast.parse(file.read_bytes()), package
    return None


def _imports(tree: ast.Module) -> list[ast.ImportFrom]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]


def _definition(target: str) -> Definition | None:
    module, _, name = target.rpartition(".")
    if (parsed := _syntax_tree(module)) is None:
        return None
    tree, package = parsed
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return Definition(module, node)
    for node in _imports(tree):
        origin = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
        for alias in node.names:
            if (alias.asname or alias.name) == name and f"{origin}.{alias.name}" != target:
                return _definition(f"{origin}.{alias.name}")
    return None


def _public_names(module: str) -> set[str]:
    """The public classes and functions that a module defines, or that a package re-exports."""
    if (parsed := _syntax_tree(module)) is None:
        return set()
    tree, package = parsed
    names = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    if package == module:
        names |= {alias.asname or alias.name for node in _imports(tree) for alias in node.names}
    return {name for name in names if name.isidentifier() and not name.startswith("_")}


def _parameters(source: Definition) -> list[Parameter]:
    """Those of a function, or of the constructor that a class writes, has as a dataclass, or inherits."""
    node = source.node
    if isinstance(node, ast.FunctionDef):
        return _arguments(node)
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return _arguments(item)[1:]
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        fields = [item for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)]
        return [_parameter(ast.unparse(field.target), field.annotation, field.value) for field in fields]
    for base in node.bases:
        if inherited := _definition(f"{source.module}.{ast.unparse(base)}"):
            return _parameters(inherited)
    return []


def _arguments(function: ast.FunctionDef) -> list[Parameter]:
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + arguments.defaults + arguments.kw_defaults
    return [
        _parameter(argument.arg, argument.annotation, default)
        for argument, default in zip(positional + arguments.kwonlyargs, defaults, strict=True)
    ]


def _parameter(name: str, annotation: ast.expr | None, default: ast.expr | None) -> Parameter:
    nodes = list(ast.walk(annotation)) if annotation else []
    words = [
        leaf.value
        for node in nodes
        if isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("Literal")
        for leaf in ast.walk(node.slice)
        if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str)
    ]
    any_word = any(isinstance(node, ast.Name) and node.id == "str" for node in nodes)  # `Literal[...] | str`
    names = _kinds(annotation)
    if isinstance(default, ast.Constant) and default.value is None:
        names |= {"None"}
    kinds = frozenset(KINDS[name] for name in names) if annotation and names <= KINDS.keys() else frozenset[str]()
    return Parameter(name, default is None, () if any_word else tuple(words), kinds)


def _kinds(annotation: ast.expr | None) -> set[str]:
    """The names of what an annotation takes, of a union each: `dict` of `dict[str, int] | None`, and `None`."""
    match annotation:
        case ast.BinOp(left, ast.BitOr(), right):
            return _kinds(left) | _kinds(right)
        case ast.Subscript(ast.Name("Optional"), inner):
            return _kinds(inner) | {"None"}
        case ast.Subscript(ast.Name("Union"), ast.Tuple(parts)):
            return {name for part in parts for name in _kinds(part)}
        case ast.Subscript(outer, _):
            return _kinds(outer)
        case ast.Constant(None):
            return {"None"}
        case ast.Name(name):
            return {name}
    return {"?"}
