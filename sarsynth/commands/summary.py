"""After the last job of a sweep: its report, its tables and pictures, and what failed.

Torch-free, as the process that starts the jobs is.
"""

import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from sarsynth.processes import rank


class Summary(Callback):
    """Hydra's callback that sums a sweep up."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write the report and pictures, print the tables; name what failed and exit with 1 if anything did."""
        if rank():
            return
        from sarsynth.report.closing import sum_up  # it draws and fits: seconds to import, and every run imports this

        if not sum_up(Path(config.hydra.sweep.dir), Path(config.paths.store)):
            sys.exit(1)  # Hydra, which has nothing more to do, would turn an exception into a warning
