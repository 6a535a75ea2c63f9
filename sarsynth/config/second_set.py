"""The second test set of an evaluation, `evaluate.also`: from what a person says of it to a whole section.

It is said in one of two ways: by a word, which is the name of a `data` option or a folder that holds one folder for
each class; or as a section, which Hydra composes (`data@evaluate.also=imagefolder evaluate.also.root=PATH`).
"""

import copy
import os
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf, open_dict

from sarsynth.errors import UserError, nearest

KEY = "evaluate.also"
# Keys of a `data` option that are about learning from it; nothing learns from a second test set.
OF_LEARNING = ("prompt", "split", "minor", "flip", "deci_seed", "leak", "allow_leak")
AS_DATA = {key: f"${{data.{key}}}" for key in ("max_bad", "fit", "near_bits")} | {"leave_out": None}


def with_second_set(config: DictConfig) -> DictConfig:
    """Give a composed configuration with `evaluate.also` as a section of its own; as it is, if it names no second set.

    Raises:
        UserError: The word is neither an option of `data` nor a folder.
    """
    said = OmegaConf.select(config, KEY)
    if said is None:
        return config
    section = _keys(said) if isinstance(said, DictConfig) else _named(str(said), OmegaConf.select(config, "data"))
    whole = copy.deepcopy(config)
    with open_dict(whole):
        kept = {key: value for key, value in section.items() if key not in OF_LEARNING}
        whole.evaluate.also = OmegaConf.create(AS_DATA | kept)
    return whole


def _named(word: str, data: DictConfig) -> dict[str, Any]:
    """The section that one word stands for."""
    options: list[str] = GlobalHydra.instance().config_loader().get_group_options("data")
    if word in options:
        return _keys(hydra.compose(f"data/{word}").data)
    folder = Path(word).expanduser()
    if not folder.is_dir():
        raise UserError(
            f"{KEY}={word} is neither a folder nor an option of data; {nearest(word, options)}; an option of your own, "
            f"or one with keys of its own, is said as data@{KEY}=NAME {KEY}.root=PATH"
        )
    # A set that is laid out as `data.root` is has its test images in a folder of their own.
    inner = {"train": None, "val": None, "test": "test" if (folder / "test").is_dir() else "."}
    about = {"name": Path(os.path.abspath(folder)).name, "root": word, "channels": data.get("channels", 1)}
    return _keys(hydra.compose("data/imagefolder").data) | inner | about


def _keys(section: DictConfig) -> dict[str, Any]:
    """The keys of a section, references to other keys as they are."""
    keys = OmegaConf.to_container(section, resolve=False)
    assert isinstance(keys, dict)
    return {str(key): value for key, value in keys.items()}
