"""Seeds that follow from others: whatever a step draws is a function of numbers such as (seed, step). Torch-free."""

import numpy as np


def step_seed(*numbers: int) -> int:
    """Mix non-negative integers, such as (seed, step), into one well-spread 63-bit seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1
