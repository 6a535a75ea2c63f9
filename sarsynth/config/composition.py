"""From a command line to the checked settings of its jobs: options composed from `conf/` by Hydra."""

import re
import shlex
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast, get_args

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sarsynth.config.checks import OF_TRAINER, check, check_folders
from sarsynth.config.components import check_package, targets
from sarsynth.config.hydra_internals import jobs_of_sweep, parse_override, quoted
from sarsynth.config.image_sections import Slot
from sarsynth.config.schema import Settings
from sarsynth.config.second_set import KEY
from sarsynth.errors import UserError, nearest, one_line
from sarsynth.program import install

CONF = Path(__file__).parents[1] / "conf"
SHOWING = ("cfg", "info")  # flags by which Hydra shows a configuration, and runs nothing


def check_jobs(script: str, arguments: Namespace) -> list[tuple[Settings, list[str]]]:
    """Compose and check every job that a command line asks for.

    Returns:
        The settings and overrides of each; none if it asks for no job.

    Raises:
        UserError: One of them has an unknown key, option or value.
    """
    if arguments.hydra_help or arguments.shell_completion:
        return []
    _check_flags(script, arguments)
    search = [f"hydra.searchpath=[file://{Path(arguments.config_dir).absolute()}]"] if arguments.config_dir else []
    with hydra.initialize_config_dir(str(CONF), job_name=script, version_base="1.3"):
        if any(getattr(arguments, flag) for flag in SHOWING):  # composed here for what is wrong with it
            _refuse_sweep([line for line in arguments.overrides if parse_override(line).is_sweep_override()])
            compose(script, [*arguments.overrides, *search], hydra_record=True)
            return []
        jobs = [[*_any_stage(script, overrides), *overrides] for overrides in _jobs(script, arguments, search)]
        checked = [(check(compose(script, [*overrides, *search])), overrides) for overrides in jobs]
        for settings, overrides in checked:
            _check_baseline(script, settings, [*overrides, *search])
            check_folders(settings)
        return checked


def settings_of(script: str, overrides: list[str]) -> Settings:
    """Compose and check the settings of one job, as a command line with these overrides would have them.

    Raises:
        UserError: It has an unknown key, option, value or folder.
    """
    with hydra.initialize_config_dir(str(CONF), job_name=script, version_base="1.3"):
        settings = check(compose(script, overrides))
    check_folders(settings)
    return settings


def _check_flags(script: str, arguments: Namespace) -> None:
    """Refuse what goes before the overrides, as far as nothing comes of it."""
    if not CONF.is_dir():
        raise UserError(f"{CONF} is missing: this installation is not whole; install sarsynth again")
    if arguments.config_dir and not Path(arguments.config_dir).is_dir():
        raise UserError(f"--config-dir {arguments.config_dir}: no such folder; name the one with your own options")
    if arguments.config_path or arguments.config_name not in (None, script):
        flag = "--config-path" if arguments.config_path else "--config-name"
        raise UserError(
            f"{flag} {arguments.config_path or arguments.config_name}: {script}.py has one configuration, "
            f"{CONF / script}.yaml; options of your own are found with --config-dir FOLDER"
        )
    modes = [flag for flag in ("run", "multirun", *SHOWING) if getattr(arguments, flag)]
    if len(modes) > 1:
        raise UserError(f"{' and '.join(f'--{mode}' for mode in modes)} do not go together; name one of them")
    if arguments.resolve and not arguments.cfg:
        raise UserError("--resolve goes with --cfg alone; add --cfg job")


def _check_baseline(script: str, settings: Settings, overrides: list[str]) -> None:
    """Refuse a baseline that is no method: of ours, or of a folder of one's own."""
    name, rows = settings.evaluate.baseline, _options("method")
    if name is None or name in rows:
        return
    try:
        compose(script, [*(line for line in overrides if not line.startswith("method=")), f"method={name}"])
    except UserError as error:
        hint = f"{nearest(name, rows)}, or null for none"
        raise UserError(f"evaluate.baseline={name} is not an option of method; {hint}") from error


def compose(script: str, overrides: list[str], hydra_record: bool = False) -> DictConfig:
    """Compose the configuration of one job, inside of Hydra's initialisation.

    Args:
        script: `train`, `generate` or `evaluate`.
        overrides: What a command line says.
        hydra_record: Add the section `hydra`.

    Raises:
        UserError: An option or key is unknown, or a file cannot be read.
    """
    try:
        return hydra.compose(script, overrides, return_hydra_config=hydra_record)
    except MissingConfigException as error:
        _refuse_option(error)
    except ConfigCompositionException as error:
        unknown = re.match(r"Could not override '([^']+)'", str(error))
        if not unknown or not overrides:
            raise UserError(one_line(error)) from error
        _refuse_key(script, overrides, unknown[1], error)
    except UnicodeDecodeError as error:
        _refuse_encoding(overrides, error)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, OSError) as error:
        if str(error).startswith("Config group override must be"):
            _refuse_choice(overrides, error)
        raise UserError(one_line(error)) from error


def _options(group: str) -> list[str]:
    """The options of a group; none if there is no such group."""
    options: list[str] = GlobalHydra.instance().config_loader().get_group_options(group)
    return options


def _refuse_option(error: MissingConfigException) -> NoReturn:
    """Say which options a group has, of which one is named that is not there."""
    parts = (error.missing_cfg_file or "").split("/")
    groups = ["/".join(parts[:end]).rstrip("/") for end in range(len(parts) - 1, 0, -1)]
    group = next((group for group in groups if _options(group)), None)
    if not group:
        raise UserError(one_line(error)) from error
    option = "/".join(parts).removeprefix(f"{group}/")
    extra = f"; more come with {install('sweeps')}" if group == "hydra/launcher" else ""
    if "/" in option and group in get_args(Slot):
        extra = f"; images of your own: {group}=imagefolder {shlex.quote(f'{group}.root={option}')}"
    raise UserError(
        f"{group}={option} is not an option of {group}; {nearest(option, _options(group))}{extra}"
    ) from error


def _refuse_choice(overrides: list[str], error: Exception) -> NoReturn:
    """Name the override that chooses no option of a group by its name, such as `method=null`."""
    for line in overrides:
        override = parse_override(line)
        options = _options(override.key_or_group)
        if options and not isinstance(override.value(), str | list):
            hint = nearest(str(override.get_value_element_as_str()), options)
            raise UserError(f"{line} names no option of {override.key_or_group}; {hint}") from error
    raise UserError(one_line(error)) from error


def _refuse_encoding(overrides: list[str], error: UnicodeDecodeError) -> NoReturn:
    """Name the file that is not UTF-8: of ours, or of those in a folder of one's own."""
    own = [re.search(r"file://([^\],]+)", line) for line in overrides if line.startswith("hydra.searchpath=")]
    for folder in [*(Path(found[1]) for found in own if found), CONF]:
        for file in sorted(folder.rglob("*.yaml")):
            try:
                file.read_text(encoding="utf-8")
            except UnicodeDecodeError as wrong:
                raise UserError(f"{file}: not UTF-8 ({one_line(wrong)}); save it as UTF-8") from error
    raise UserError(f"a configuration file is not UTF-8: {one_line(error)}") from error


def _refuse_key(script: str, overrides: list[str], named: str, error: ConfigCompositionException) -> NoReturn:
    """Say what is wrong with an override of a key that has no value: it needs a plus, or there is no such key."""
    # Of a section that is said as a whole, the cause names the key inside it.
    inner = str(getattr(error.__cause__, "full_key", None))
    key = inner if inner.startswith(f"{named}.") else named
    wrong = [override for override in overrides if override.lstrip("+~").split("=")[0] == named]
    rest = [override for override in overrides if override not in wrong]
    of_hydra = key.startswith("hydra.")
    if named.startswith(f"{KEY}.") and not any(line.startswith(f"data@{KEY}=") for line in overrides):
        raise UserError(f"{named} is a key of a section: say data@{KEY}=NAME in place of {KEY}=NAME") from error
    if wrong and not of_hydra and "." in key and _fits(script, [*rest, *(f"+{override}" for override in wrong)]):
        raise UserError(f"{key} has no value yet that could be overridden; add it with +{wrong[0]}") from error
    keys = _keys(compose(script, rest if wrong else [], hydra_record=of_hydra))
    section, _, name = key.rpartition(".")
    if section == "trainer":  # whose keys are few, and what else people look for there has another place
        own = [other.partition(".")[2] for other in keys if other.startswith("trainer.")]
        raise UserError(f"unknown key {key}; {nearest(name, own, section)}{OF_TRAINER}") from error
    raise UserError(f"unknown key {key}; {nearest(key, keys)}") from error


def _jobs(script: str, arguments: Namespace, search: list[str]) -> list[list[str]]:
    """The overrides of each job: those of the command line, or what its sweep makes of them."""
    swept = [line for line in arguments.overrides if parse_override(line).is_sweep_override()]
    single = [line for line in arguments.overrides if line not in swept]
    record = compose(script, [*single, *search], hydra_record=True).hydra
    for key, target in targets("hydra", OmegaConf.to_container(record)):
        check_package(key, target, "hydra", "hydra_plugins")
    if not arguments.multirun and record.mode != RunMode.MULTIRUN:
        _refuse_sweep(swept)
        return [arguments.overrides]
    return jobs_of_sweep(record, arguments.overrides)


def _any_stage(script: str, overrides: Sequence[str]) -> list[str]:
    """A stage, where none has to be named: to look at the machine."""
    return ["stage=data"] if script == "train" and any(line.startswith("doctor=") for line in overrides) else []


def _refuse_sweep(swept: list[str]) -> None:
    """Refuse values to sweep over where there is no sweep."""
    if swept:
        raise UserError(
            f"{swept[0]} is a sweep: add -m for one job each, or write key=[a,b] for a list; a text with commas or "
            f"brackets is quoted: {quoted(swept[0])}"
        )


def _of_baseline(key: str, *, _root_: DictConfig) -> Any:
    """Resolve `${baseline:KEY}`: the value of a key in the row that evaluate.baseline names.

    Raises:
        UserError: It names no row, an unknown one, or one that itself repeats the baseline.
    """
    name = OmegaConf.select(_root_, "evaluate.baseline")  # a row on its own has no such key
    if name is None:
        raise UserError("a control repeats the row that evaluate.baseline names: name one there, not a control or null")
    rows = GlobalHydra.instance().config_loader().get_group_options("method")
    if name not in rows:
        raise UserError(f"evaluate.baseline={name} is not an option of method; {nearest(str(name), rows)}")
    return OmegaConf.select(hydra.compose(f"method/{name}"), f"method.{key}")


OmegaConf.register_new_resolver("baseline", _of_baseline, replace=True)


def _fits(script: str, overrides: list[str]) -> bool:
    """Whether these overrides make a valid configuration."""
    try:
        check(compose(script, overrides))
    except UserError:
        return False
    return True


def _keys(config: DictConfig) -> list[str]:
    """Every dotted key of a configuration, sections included."""

    def walk(section: dict[Any, Any], above: str) -> Iterator[str]:
        for key, value in section.items():
            yield f"{above}{key}"
            if isinstance(value, dict):
                yield from walk(value, f"{above}{key}.")

    return list(walk(cast(dict[Any, Any], OmegaConf.to_container(config)), ""))
