"""The peers of `speed.py` by their own entry points: diffusers' scripts and pipelines, PEFT, torch-fidelity.

The training loops call, in the order of diffusers' `train_text_to_image_lora.py` and `train_controlnet.py`, what one
step of these calls: the images are read from the data loader, encoded by the autoencoder and the text encoder, and the
U-Net with PEFT's adapter is stepped through accelerate.
"""

import importlib.metadata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sarsynth.diffusion.base import Base

import diffusers
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers import ControlNetModel, DPMSolverMultistepScheduler, UNet2DConditionModel
from diffusers.optimization import get_scheduler
from peft import LoraConfig
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

PROMPT = "a SAR image of a cargo ship"
NEVER = 1_000_000  # steps of a schedule that does not end here


def version(package: str) -> str:
    """A package as tables name it."""
    return f"{package} {importlib.metadata.version(package)}"


def with_peft(unet: UNet2DConditionModel, rank: int, target_modules: str) -> list[nn.Parameter]:
    """Add an adapter as diffusers' scripts do; returns what trains."""
    config = LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=target_modules)
    unet.add_adapter(config)
    return [parameter for parameter in unet.parameters() if parameter.requires_grad]


class _Pictures(Dataset[dict[str, Tensor]]):
    """Images with the script's transforms and token ids, decoded already: files are no part of the contest."""

    def __init__(self, images: list[Image.Image], input_ids: Tensor, size: int) -> None:
        self.images, self.input_ids = images, input_ids
        self.transform = transforms.Compose(
            [
                transforms.Resize(size, interpolation=transforms.InterpolationMode.BILINEAR),
                transforms.CenterCrop(size),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize([0.5], [0.5]),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pixel_values": self.transform(self.images[index]), "input_ids": self.input_ids}


@dataclass
class ScriptLoop:
    """One step after the other of diffusers' LoRA script, with a frozen ControlNet where one is given."""

    base: Base
    rank: int
    target_modules: str
    batch_size: int
    size: int
    controlnet: ControlNetModel | None = None
    contour: Tensor | None = None  # float (3, H, W) in [0, 1]
    bfloat16: bool = False

    def __post_init__(self) -> None:
        AcceleratorState._reset_state()  # a process has one precision otherwise; what is prepared already keeps its own
        self.accelerator = Accelerator(mixed_precision="bf16" if self.bfloat16 else "no")
        dtype = torch.bfloat16 if self.bfloat16 else torch.float32
        for network in (self.base.unet, self.base.vae, self.base.text_encoder, self.controlnet):
            if network is not None:
                network.requires_grad_(False).to(self.accelerator.device, dtype=dtype)
        self.parameters = with_peft(self.base.unet, self.rank, self.target_modules)
        self.base.unet.train()
        optimizer = torch.optim.AdamW(self.parameters, lr=1e-4)
        schedule = get_scheduler("constant", optimizer=optimizer, num_warmup_steps=0, num_training_steps=NEVER)
        noise = torch.randint(256, (64, self.size, self.size, 3), dtype=torch.uint8).numpy()
        pictures = _Pictures(
            [Image.fromarray(picture) for picture in noise], self.base.tokenize([PROMPT])[0], self.size
        )
        loader = DataLoader(pictures, shuffle=True, batch_size=self.batch_size, drop_last=True)
        self.unet, self.optimizer, self.loader, self.schedule = self.accelerator.prepare(
            self.base.unet, optimizer, loader, schedule
        )
        self._batches = self._endless()

    def _endless(self) -> Iterator[dict[str, Tensor]]:
        while True:
            yield from self.loader

    def __call__(self) -> None:
        """Take a step."""
        batch, vae, schedule = next(self._batches), self.base.vae, self.base.noise_scheduler
        with self.accelerator.accumulate(self.unet):
            latents = vae.encode(batch["pixel_values"].to(vae.dtype)).latent_dist.sample() * vae.config.scaling_factor
            noise = torch.randn_like(latents)
            steps = torch.randint(0, schedule.config.num_train_timesteps, (len(latents),), device=latents.device).long()
            noisy = schedule.add_noise(latents, noise, steps)
            text = self.base.text_encoder(batch["input_ids"], return_dict=False)[0]
            added: dict[str, Any] = {}
            if self.controlnet is not None and self.contour is not None:
                contours = self.contour.expand(len(latents), -1, -1, -1).to(latents)
                down, middle = self.controlnet(noisy, steps, text, contours, return_dict=False)
                added = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
            prediction = self.unet(noisy, steps, text, return_dict=False, **added)[0]
            loss = F.mse_loss(prediction.float(), noise.float(), reduction="mean")
            self.accelerator.gather(loss.repeat(self.batch_size)).mean().item()
            self.accelerator.backward(loss)
            self.accelerator.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()


def pipeline(base: Base, controlnet: ControlNetModel | None) -> Any:
    """Diffusers' pipeline on a base, with the sampler that this package uses."""
    parts = {"vae": base.vae, "text_encoder": base.text_encoder, "tokenizer": base.tokenizer, "unet": base.unet}
    scheduler = DPMSolverMultistepScheduler.from_config(base.noise_scheduler.config)
    parts |= {"scheduler": scheduler, "safety_checker": None, "feature_extractor": None}
    kind = diffusers.StableDiffusionPipeline
    if controlnet is not None:
        kind, parts = diffusers.StableDiffusionControlNetPipeline, parts | {"controlnet": controlnet}
    pipe = kind(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def adapt(unet: UNet2DConditionModel, ranks: list[int], target_modules: str) -> None:
    """Put several adapters on a U-Net, unfolded, all active, as `load_lora_weights` and `set_adapters` leave them."""
    names = [f"adapter_{index}" for index in range(len(ranks))]
    for name, rank in zip(names, ranks, strict=True):
        config = LoraConfig(r=rank, lora_alpha=rank, init_lora_weights=False, target_modules=target_modules)
        unet.add_adapter(config, adapter_name=name)
    unet.requires_grad_(False)
    if names:
        unet.set_adapters(names, [0.25] * len(names))


def fidelity(real: Tensor, synthetic: Tensor) -> Callable[[], dict[str, float]]:
    """torch-fidelity's FID, KID (its 100 subsets of 1,000), precision and recall of ready features."""
    from torch_fidelity import metric_fid, metric_kid, metric_prc

    def measure() -> dict[str, float]:
        statistics = [metric_fid.fid_features_to_statistics(features) for features in (real, synthetic)]
        figures = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)
        figures |= metric_kid.kid_features_to_metric(real, synthetic, verbose=False)
        return figures | metric_prc.prc_features_to_metric(real, synthetic, verbose=False)

    return measure
