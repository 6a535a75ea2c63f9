"""What Hydra reads and composes, it reads and composes once: that is a quarter second, three times a job."""

import copy
import os
import pickle
from functools import wraps
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.core.utils import JobRuntime
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, open_dict

from sarsynth.config.composition import CONF

OURS = ([str(CONF)], [f"file://{CONF}"])  # as this package and as Hydra's own entry name it


def compose_once() -> None:
    """Keep in this process what is composed of our own files and Hydra's, which no test changes."""
    if not hasattr(ConfigLoaderImpl._load_configuration_impl, "__wrapped__"):
        _keep_compositions()
        Plugins.instance()  # finds the kinds of places
        _keep_files(SourcesRegistry.instance().resolve("file"))
        _keep_files(SourcesRegistry.instance().resolve("pkg"))


def _keep_compositions() -> None:
    compose = ConfigLoaderImpl._load_configuration_impl
    known: dict[Any, DictConfig] = {}

    @wraps(compose)
    def remembered(loader: ConfigLoaderImpl, config_name: str, overrides: list[str], **how: Any) -> DictConfig:
        places = [place.path for place in loader.get_search_path().get_path() if place.provider == "main"]
        if places not in OURS or any("searchpath" in override for override in overrides):
            return compose(loader, config_name, overrides, **how)
        key = (config_name, *overrides, *how.values(), JobRuntime.instance().get("name"))
        if key not in known:
            known[key] = compose(loader, config_name, overrides, **how)
        config = copy.deepcopy(known[key])  # not by pickle: a launcher's class may be older than its module
        with open_dict(config):
            config.hydra.runtime.cwd = os.getcwd()
        return config

    ConfigLoaderImpl._load_configuration_impl = remembered


def _keep_files(source: type) -> None:
    load = source.load_config
    known: dict[Any, bytes] = {}

    @wraps(load)
    def remembered(place: Any, config_path: str) -> ConfigResult:
        if place.path != str(CONF) and not place.path.startswith("hydra"):
            return load(place, config_path)
        key = place.path, config_path, place.provider
        if key not in known:
            known[key] = pickle.dumps(load(place, config_path))
        return pickle.loads(known[key])

    source.load_config = remembered
