"""How people call this program where it runs: the scripts of a checkout, or the commands that a wheel installs."""

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

VARIABLE = "SARSYNTH_CALLED"  # what a command line begins with, which the processes of a job inherit


def remember(argv: Sequence[str], script: str, config_dir: str | None) -> None:
    """Keep how this process was called, so that the commands it proposes can be typed as they are.

    Args:
        argv: Its command line; the first word is a script's file, or an installed command.
        script: `train`, `generate` or `evaluate`.
        config_dir: The folder of `--config-dir`, without which its options are unknown.
    """
    called = "python {script}.py" if Path(argv[0]).name == f"{script}.py" else "sarsynth-{script}"
    os.environ[VARIABLE] = called + (f" --config-dir {shlex.quote(config_dir)}" if config_dir else "")


def command(script: str, *words: str) -> str:
    """What a person types to run a script with these words."""
    called = os.environ.get(VARIABLE) or ("python {script}.py" if checkout() else "sarsynth-{script}")
    return " ".join([called.replace("{script}", script), *([shlex.join(words)] if words else [])])


def public(script: str, *words: str) -> str:
    """The same for others to type, who have no such folder of `--config-dir`."""
    return re.sub(r" --config-dir ('[^']*'|\S+)", " --config-dir PATH/TO", command(script, *words), count=1)


def checkout() -> Path | None:
    """The folder of the checkout that this code is of; None if it is installed."""
    folder = Path(__file__).parents[1]
    return folder if (folder / "pyproject.toml").is_file() and (folder / "train.py").is_file() else None


def install(extra: str) -> str:
    """What a person types to install an extra."""
    return f"pip install -e '.[{extra}]'" if checkout() else f"pip install 'sarsynth[{extra}]'"
