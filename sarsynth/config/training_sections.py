"""Settings of the stages that train, and of the machine that they train on."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from sarsynth.config.section import BelowOne, Count, NonNegative, Positive, Section, Share, Whole

DEVICES = r"auto|-1|[1-9]\d*|\d+(,\d+)+"  # of a machine, as Lightning names them


class Optimisation(Section):
    """A training: AdamW, linear warm-up, one cosine to zero. Steps are optimiser steps."""

    learning_rate: Positive
    warmup_steps: Whole
    max_steps: Count
    batch_size: Count
    weight_decay: NonNegative
    max_grad_norm: Positive
    checkpoint_every: Count


class AdapterTraining(Optimisation):
    """Training of an adapter; `warmup_share` of its own steps, if given, takes the place of `warmup_steps`.

    Its B matrices learn `loraplus_lr_ratio` times as fast as A (LoRA+, Hayou et al., arXiv 2402.12354; PEFT's name).
    Samples count by their signal-to-noise ratio up to `snr_gamma` (min-SNR, Hang et al., arXiv 2303.09556; the name in
    diffusers' scripts).
    """

    warmup_share: Share | None
    loraplus_lr_ratio: Positive
    snr_gamma: Positive | None

    def warmup(self, steps: int, *, whole: bool) -> int:
        """Count an adapter's steps of warm-up.

        Args:
            steps: All its steps.
            whole: Whether it trains on the whole set. An adapter of a part has fewer steps; a tenth of them at most
                is warm-up, unless there is a share.
        """
        if self.warmup_share is not None:
            return round(self.warmup_share * steps)
        return self.warmup_steps if whole else min(self.warmup_steps, steps // 10)


class OrsTraining(AdapterTraining):
    """Stage `ors`; its adapter's rank stands here, that of SAR adapters with the method."""

    rank: Count


class SarTraining(AdapterTraining):
    """Stage `sar`; `scale_below` is the scale of the frozen ORS adapter below while SAR adapters train."""

    scale_below: float


class Tuning(Optimisation):
    """Training of a whole U-Net; the moving average of its weights is kept."""

    decay: Literal["cosine", "constant"]
    ema_decay: BelowOne


class AutoencoderTraining(Optimisation):
    """First half of stage `base`; `kl_weight` is per latent value."""

    kl_weight: NonNegative


class UNetTraining(Optimisation):
    """Second half of stage `base`; `caption_dropout` is the share of images shown with an empty caption."""

    ema_decay: BelowOne
    caption_dropout: Share


class ControlNetTraining(Optimisation):
    """Stage `controlnet`; `caption_dropout` is the share of images shown with an empty caption."""

    caption_dropout: Share


class BaseTraining(Section):
    """Stage `base`: the autoencoder first, then the U-Net together with its text encoder.

    Beside photographs they see `generic_pictures` of shapes on textures; half of these have speckle, for the
    autoencoder alone.
    """

    generic_pictures: Annotated[int, Field(ge=10)]
    autoencoder: AutoencoderTraining
    unet: UNetTraining


class Training(Section):
    """The stages that train. `base` is None for a base that is not made here.

    At most `micro_batch` samples go through a network at once. Neither this nor `gradient_checkpointing` and `compile`
    change the result of a step, but for rounding.
    """

    micro_batch: Count | Literal["auto"]
    gradient_checkpointing: bool
    compile: bool
    base: BaseTraining | None
    ors: OrsTraining
    sar: SarTraining
    finetune: Tuning
    scratch: Tuning
    controlnet: ControlNetTraining


class Trainer(Section):
    """The arguments of Lightning's Trainer that a study may choose.

    Its others follow from the run, would leave a training unfinished (`max_time`, `limit_train_batches`), or make it
    another one than its fingerprint says. Adapters stay in float32, so there is no `bf16-true`; strategies that shard
    weights are not supported.
    """

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"]
    devices: int | str | tuple[Whole, ...]
    num_nodes: Count
    strategy: Literal["auto", "ddp"]
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
    deterministic: bool

    @field_validator("devices")
    @classmethod
    def _known(cls, devices: Any) -> Any:
        listed = isinstance(devices, tuple)
        if not (devices if listed else re.fullmatch(DEVICES, str(devices))):
            raise ValueError(f"{devices} names no devices; say how many, auto or -1 for all, or list them")
        return list(devices) if listed else devices
