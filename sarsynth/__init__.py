"""sarsynth: synthetic SAR images from a frozen diffusion model and low-rank adapters."""

import os

__version__ = "0.1.0"

# Threads that wait for work sleep. The OpenMP of torch reads this as it is loaded, so it stands before every import; it
# lets them spin otherwise, which costs other jobs on the same cores more than it gains.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
