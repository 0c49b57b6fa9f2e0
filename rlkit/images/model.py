"""Diffusion models from local folders: a U-Net alone, a pipeline of one, or a text-to-image one.

Weights are read from safetensors only; code in a folder is never run and nothing is downloaded.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlkit import files
from rlkit.images.folders import (
    INDEX,
    SCHEDULER,
    check_parts,
    check_weights,
    library,
    load_part,
)
from rlkit.tuning.models import loading
from rlkit.validation import check_choice, check_integer

UNCONDITIONAL = ("DDPMPipeline", "DDIMPipeline", "PNDMPipeline")
TEXT_TO_IMAGE = ("StableDiffusionPipeline",)
PREDICTIONS = ("epsilon", "v_prediction", "sample")
SPACINGS = ("leading", "trailing", "linspace")
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]  # matrices of the attentions, which adapters update


@dataclass(frozen=True)
class Noise:
    """How a model was trained: its noise levels and what it predicts.

    Attributes:
        abar: signal levels of the training steps, `[S]` float32.
        final: level that the last denoising step leads to.
        prediction: "epsilon", "v_prediction" or "sample".
        clip: bound of the predicted sample, infinite for none.
        spacing: of the sampling steps, "leading", "trailing" or "linspace".
        offset: added to the steps of "leading".
    """

    abar: Tensor
    final: float
    prediction: str
    clip: float
    spacing: str
    offset: int


@dataclass(frozen=True, eq=False)
class ImageModel:
    """A denoiser with what it needs around it; its weights are those of the reference.

    Attributes:
        module: the U-Net in evaluation mode; parameters that require a gradient are trained.
        noise: levels and prediction.
        shape: of a noise `[channels, height, width]`.
        folder: that it was read from.
        tokenizer: of prompts, None without prompts.
        encoder: of prompts, None without prompts.
        decoder: from latents to images, None where the denoiser works on pixels.
        adapter: what wraps the module where adapters are trained.
    """

    module: nn.Module
    noise: Noise
    shape: tuple[int, int, int]
    folder: Path
    tokenizer: Any = None
    encoder: Any = None
    decoder: Any = None
    adapter: Any = None

    @property
    def conditional(self) -> bool:
        """Whether the model takes prompts."""
        return self.encoder is not None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.module.parameters()).device

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Hidden states of prompts, cut to what the encoder reads, `[C, L, E]`."""
        batch = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, return_tensors="pt",
            max_length=self.tokenizer.model_max_length,
        )  # fmt: skip
        return self.encoder(batch["input_ids"].to(self.device))[0]

    @torch.no_grad()
    def decode(self, x: Tensor) -> Tensor:
        """Images `[B, 3, H, W]` in [0, 1] of denoised `x` `[B, *shape]`."""
        if self.decoder is not None:
            config = self.decoder.config
            shift = getattr(config, "shift_factor", None) or 0.0
            x = self.decoder.decode(x / config.scaling_factor + shift, return_dict=False)[0]
        return (x / 2 + 0.5).clamp(0, 1)


def load_model(folder: Path, device: str = "cpu", clip: str = "auto") -> ImageModel:
    """A diffusion model.

    Args:
        folder: with `model_index.json`, or with the `config.json` of a `UNet2DModel` and a
            `scheduler_config.json` beside it or in `scheduler/`.
        device: of torch.
        clip: whether predicted samples are clipped: "auto" as the scheduler says, "on" or "off".

    Raises:
        ValueError: a folder of another kind, or one that does not load.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; accepted: a local one, nothing is downloaded")
    check_choice("clip", clip, ("auto", "on", "off"))
    if not (folder / INDEX).is_file():
        if check_weights(folder).get("_class_name") != "UNet2DModel":
            raise ValueError(f"{folder}: neither {INDEX} nor the config.json of a UNet2DModel")
        return load_unconditional(folder, folder, device, clip)
    index = files.read_json(folder / INDEX)
    kind = index.get("_class_name")
    check_choice(f"{folder / INDEX}: _class_name", kind, (*UNCONDITIONAL, *TEXT_TO_IMAGE))
    if kind in UNCONDITIONAL:
        check_parts(folder, index, {"unet": ("UNet2DModel",)})
        return load_unconditional(folder, folder / "unet", device, clip)
    check_parts(folder, index, {
        "unet": ("UNet2DConditionModel",), "vae": ("AutoencoderKL",),
        "text_encoder": ("CLIPTextModel",), "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    })  # fmt: skip
    return load_text_to_image(folder, device, clip)


def load_unconditional(folder: Path, place: Path, device: str, clip: str) -> ImageModel:
    """A `UNet2DModel` in `place`, on pixels.

    Raises:
        ValueError: as `load_model`; one that needs classes or predicts variances.
    """
    module = load_part(place, "diffusers", "UNet2DModel", device)
    config = module.config
    if config.num_class_embeds is not None or config.class_embed_type is not None:
        raise ValueError(f"{folder}: the U-Net needs classes; accepted: none, or prompts")
    if config.out_channels != 3:
        raise ValueError(f"{folder}: {config.out_channels} channels; accepted: 3, colours")
    return ImageModel(
        frozen(folder, module), read_noise(folder, "on", clip, device), shape_of(folder, config),
        folder,
    )  # fmt: skip


def load_text_to_image(folder: Path, device: str, clip: str) -> ImageModel:
    """A `StableDiffusionPipeline`; its safety checker and image processor are not read.

    Raises:
        ValueError: as `load_model`; one that needs more than a prompt.
    """
    module = load_part(folder / "unet", "diffusers", "UNet2DConditionModel", device)
    for name in ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type"):
        if getattr(module.config, name) is not None:
            raise ValueError(f"{folder}: the U-Net needs more than a prompt ({name})")
    encoder = load_part(folder / "text_encoder", "transformers", "CLIPTextModel", device)
    decoder = load_part(folder / "vae", "diffusers", "AutoencoderKL", device)
    for part in (encoder, decoder):
        part.requires_grad_(False)
    with loading(folder, "tokenizer not loaded"):
        tokenizer = library("transformers").CLIPTokenizer.from_pretrained(
            str(folder / "tokenizer"), local_files_only=True, trust_remote_code=False
        )
    return ImageModel(
        frozen(folder, module), read_noise(folder, "off", clip, device),
        shape_of(folder, module.config), folder, tokenizer, encoder, decoder,
    )  # fmt: skip


def frozen(folder: Path, module: Any) -> Any:
    """The same U-Net.

    Raises:
        ValueError: inputs and outputs of different sizes.
    """
    read, written = module.config.in_channels, module.config.out_channels
    if read != written:
        raise ValueError(f"{folder}: the U-Net reads {read} channels and writes {written}")
    return module


def shape_of(folder: Path, config: Any) -> tuple[int, int, int]:
    """Channels, height and width of a noise.

    Raises:
        ValueError: the configuration states no size.
    """
    size = config.sample_size
    if size is None:
        raise ValueError(f"{folder}: config.json of the U-Net has no sample_size")
    height, width = (size, size) if isinstance(size, int) else size
    return int(config.in_channels), int(height), int(width)


def read_noise(folder: Path, fallback: str, clip: str, device: str) -> Noise:
    """Noise levels from the scheduler's configuration.

    Any scheduler of discrete training steps will do: what is read are its levels. DDIM would clip
    predicted samples where the configuration says nothing; latents (`fallback` "off") it must not.

    Raises:
        ValueError: no configuration, or one that asks for something else.
    """
    places = (folder / "scheduler" / SCHEDULER, folder / SCHEDULER)
    config = files.read_json(next((path for path in places if path.is_file()), places[1]))
    with loading(folder, "scheduler"):
        made = library("diffusers").DDIMScheduler.from_config(config)
    check_choice(f"{folder}: prediction_type", made.config.prediction_type, PREDICTIONS)
    check_choice(f"{folder}: timestep_spacing", made.config.timestep_spacing, SPACINGS)
    if made.config.thresholding:
        raise ValueError(f"{folder}: thresholding = true; accepted: false")
    declared = config.get("clip_sample", fallback == "on")
    clipped = declared if clip == "auto" else clip == "on"
    bound = float(made.config.clip_sample_range) if clipped else math.inf
    return Noise(
        made.alphas_cumprod.to(device), float(made.final_alpha_cumprod),
        made.config.prediction_type, bound, made.config.timestep_spacing,
        int(made.config.steps_offset),
    )  # fmt: skip


def with_adapters(model: ImageModel, rank: int, seed: int = 0) -> ImageModel:
    """The same model, of which only low-rank updates of its attentions are trained.

    Hu et al. (2022), "LoRA". They start at zero, where the policy is the reference.

    Args:
        model: its module is changed.
        rank: of each update, >= 1.
        seed: of their first factors.

    Raises:
        ValueError: a rank below 1, a U-Net without attentions, or peft is not installed.
    """
    check_integer("lora", rank, 1)
    peft = library("peft")
    config = peft.LoraConfig(
        r=rank, lora_alpha=rank, target_modules=TARGETS, init_lora_weights="gaussian"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            adapter = peft.get_peft_model(model.module, config).eval()
        except ValueError:
            raise ValueError("lora: the U-Net has no attentions; accepted: 0") from None
    return replace(model, module=adapter.get_base_model(), adapter=adapter)
