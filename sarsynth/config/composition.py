"""From a command line to the checked settings of its jobs: options composed from `conf/` by Hydra."""

import re
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, cast

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sarsynth.config.checks import check
from sarsynth.config.components import check_package, targets
from sarsynth.config.hydra_internals import jobs_of_sweep, parse_override
from sarsynth.config.schema import Settings
from sarsynth.errors import UserError, nearest, one_line

CONF = Path(__file__).parents[2] / "conf"


def check_jobs(script: str, arguments: Namespace) -> list[tuple[Settings, list[str]]]:
    """Compose and check every job that a command line asks for.

    Returns:
        The settings and overrides of each; none if it asks for no job.

    Raises:
        UserError: One of them has an unknown key, option or value.
    """
    if any(getattr(arguments, flag) for flag in ("help", "hydra_help", "cfg", "info", "shell_completion")):
        return []
    if not CONF.is_dir():
        raise UserError(f"{CONF} is missing; run the scripts of a checkout, installed with `pip install -e .`")
    if arguments.config_dir and not Path(arguments.config_dir).is_dir():
        raise UserError(f"--config-dir {arguments.config_dir}: no such folder; name the one with your own options")
    search = [f"hydra.searchpath=[file://{Path(arguments.config_dir).absolute()}]"] if arguments.config_dir else []
    with hydra.initialize_config_dir(str(CONF), job_name=script, version_base="1.3"):
        jobs = _jobs(script, arguments, search)
        return [(check(compose(script, [*overrides, *search])), overrides) for overrides in jobs]


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
        group, _, option = (error.missing_cfg_file or "").rpartition("/")
        if not error.options:
            raise UserError(one_line(error)) from error
        extra = "; more come with pip install -e '.[sweeps]'" if group == "hydra/launcher" else ""
        hint = nearest(option, error.options)
        raise UserError(f"{group}={option} is not an option of {group}; {hint}{extra}") from error
    except ConfigCompositionException as error:
        unknown = re.match(r"Could not override '([^']+)'", str(error))
        if not unknown or not overrides:
            raise UserError(one_line(error)) from error
        _refuse_key(script, overrides, unknown[1], error)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise UserError(one_line(error)) from error


def _refuse_key(script: str, overrides: list[str], named: str, error: ConfigCompositionException) -> NoReturn:
    """Say what is wrong with an override of a key that has no value: it needs a plus, or there is no such key."""
    # Of a section that is said as a whole, the cause names the key inside it.
    inner = str(getattr(error.__cause__, "full_key", None))
    key = inner if inner.startswith(f"{named}.") else named
    wrong = [override for override in overrides if override.lstrip("+~").split("=")[0] == named]
    rest = [override for override in overrides if override not in wrong]
    of_hydra = key.startswith("hydra.")
    if wrong and not of_hydra and "." in key and _fits(script, [*rest, *(f"+{override}" for override in wrong)]):
        raise UserError(f"{key} has no value yet that could be overridden; add it with +{wrong[0]}") from error
    keys = _keys(compose(script, rest if wrong else [], hydra_record=of_hydra))
    raise UserError(f"unknown key {key}; {nearest(key, keys)}") from error


def _jobs(script: str, arguments: Namespace, search: list[str]) -> list[list[str]]:
    """The overrides of each job: those of the command line, or what its sweep makes of them."""
    swept = [line for line in arguments.overrides if parse_override(line).is_sweep_override()]
    single = [line for line in arguments.overrides if line not in swept]
    record = compose(script, [*single, *search], hydra_record=True).hydra
    for key, target in targets("hydra", OmegaConf.to_container(record)):
        check_package(key, target, "hydra", "hydra_plugins")
    if not arguments.multirun and record.mode != RunMode.MULTIRUN:
        if swept:
            raise UserError(f"{swept[0]} is a sweep: add -m for one job each, or write key=[a,b] for a list")
        return [arguments.overrides]
    return jobs_of_sweep(record, arguments.overrides)


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
