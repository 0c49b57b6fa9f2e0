"""Tiny diffusion models with random weights, saved to temporary folders."""

import json
import warnings

import numpy as np
import pytest

# The libraries' own business.
NOISE = ("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
SIZE = 8


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/images/" in str(item.path).replace("\\", "/"):
            for text in NOISE:
                item.add_marker(pytest.mark.filterwarnings(text))


def fill(module, seed, scale):
    """Weights from a generator of our own."""
    import torch

    random = np.random.default_rng(seed)
    with torch.no_grad():
        for name, leaf in module.named_parameters():
            if leaf.dim() > 1:
                deviation = scale / np.sqrt(leaf[0].numel())
                leaf.copy_(torch.tensor(random.normal(0, deviation, leaf.shape)))
            elif "bias" in name:
                leaf.zero_()


def unet(diffusers):
    return diffusers.UNet2DModel(
        sample_size=SIZE, in_channels=3, out_channels=3, layers_per_block=1,
        block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip


def fit(model, scheduler, steps=160):
    """A few steps of the usual loss on pictures of about one grey."""
    import torch

    random = np.random.default_rng(4)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)

    def draw(*shape):
        return torch.tensor(random.standard_normal(shape), dtype=torch.float32)

    for _ in range(steps):
        clean = (0.3 * draw(32, 1, 1, 1) + 0.1 * draw(32, 3, SIZE, SIZE)).clamp(-1, 1)
        noise = draw(*clean.shape)
        time = torch.tensor(random.integers(0, len(scheduler), 32))
        predicted = model(scheduler.add_noise(clean, noise, time), time).sample
        optimizer.zero_grad()
        ((predicted - noise) ** 2).mean().backward()
        optimizer.step()


@pytest.fixture(scope="session")
def diffusers():
    """The library, without its chatter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("diffusers")
    module.utils.logging.set_verbosity_error()
    module.utils.logging.disable_progress_bar()
    return module


@pytest.fixture(scope="session")
def folders(diffusers, tmp_path_factory):
    """Of a pipeline `pipeline`, its U-Net alone `unet`, and a text-to-image pipeline `text`."""
    place = tmp_path_factory.mktemp("models")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = unet(diffusers)
        fill(model, 0, 1.0)
        scheduler = diffusers.DDPMScheduler(timestep_spacing="trailing")
        fit(model, scheduler)
        model.save_pretrained(place / "unet")
        scheduler.save_pretrained(place / "unet")
        diffusers.DDPMPipeline(model, scheduler).save_pretrained(place / "pipeline")
        text_to_image(diffusers, place / "text")
    return {path.name: path for path in place.iterdir()}


def text_to_image(diffusers, place):
    """A pipeline of a conditional U-Net, a text encoder of two layers and a small decoder."""
    transformers = pytest.importorskip("transformers")
    module = diffusers.UNet2DConditionModel(
        sample_size=4, in_channels=4, out_channels=4, layers_per_block=1,
        block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=4,
        cross_attention_dim=16, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    decoder = diffusers.AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, norm_num_groups=4,
        block_out_channels=(8, 8), layers_per_block=1, sample_size=8, scaling_factor=0.5,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    tokenizer = save_tokenizer(transformers, place / "tokenizer")
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=12, pad_token_id=0,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    encoder = transformers.CLIPTextModel(config)
    for seed, part in enumerate((module, decoder, encoder)):
        fill(part, seed, 1.0)
    scheduler = diffusers.PNDMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1,
        skip_prk_steps=True, set_alpha_to_one=False,
    )  # fmt: skip
    diffusers.StableDiffusionPipeline(
        vae=decoder, text_encoder=encoder, tokenizer=tokenizer, unet=module, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(place)  # fmt: skip


def save_tokenizer(transformers, place):
    """A tokenizer of single letters."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    vocabulary = {word: n for n, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    place.mkdir(parents=True)
    (place / "vocab.json").write_text(json.dumps(vocabulary))
    (place / "merges.txt").write_text("#version: 0.2\n")
    return transformers.CLIPTokenizer.from_pretrained(str(place), model_max_length=12)
