"""The diffusion model and what is trained on it: base, adapters, prototypes, ControlNet; training and sampling."""
