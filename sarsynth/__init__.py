"""sarsynth: synthetic SAR images from a frozen diffusion model and low-rank adapters."""

__version__ = "0.1.0"
