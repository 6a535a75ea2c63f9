"""A share of the sampling steps in which something acts on the images: a ControlNet, or guidance."""

from typing import NamedTuple


class StepInterval(NamedTuple):
    """From where to where, as shares of the steps, 0 to 1."""

    start: float = 0.0
    end: float = 1.0

    def holds(self, step: int, steps: int) -> bool:
        """Whether a step, counted from 0, lies wholly in it, as diffusers' pipelines decide for a ControlNet."""
        return self.start <= step / steps and (step + 1) / steps <= self.end


ALWAYS = StepInterval()
