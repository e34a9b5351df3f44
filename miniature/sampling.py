"""A batched DDIM sampler with classifier-free guidance, for samples during training and for evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTokenizer

from . import ldm
from .model import LATENT, SCALE, alphas_cumprod, build_text, build_unet, build_vae

TOKENIZER = Path(__file__).resolve().parent.parent / "lib_loraclr" / "hosts" / "standalone" / "clip_tokenizer"


def load_tokenizer() -> CLIPTokenizer:
    """The standard CLIP tokenizer of Stable Diffusion 1."""
    return CLIPTokenizer(str(TOKENIZER / "vocab.json"), str(TOKENIZER / "merges.txt"), pad_token="<|endoftext|>")


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Token ids (n, 77), padded with the end token."""
    return tokenizer(texts, padding="max_length", truncation=True, max_length=77, return_tensors="pt").input_ids


class Pipeline:
    """UNet, VAE, text encoder and tokenizer of the miniature."""

    def __init__(self, unet: nn.Module, vae: nn.Module, text: nn.Module, device: str = "cpu") -> None:
        self.unet, self.vae, self.text = (m.to(device).eval() for m in (unet, vae, text))
        self.tokenizer, self.device = load_tokenizer(), device

    @classmethod
    def from_file(cls, path: Path, device: str = "cpu") -> Pipeline:
        """Load a checkpoint in LDM layout."""
        unet, vae, text = build_unet(), build_vae(), build_text()
        parts = ldm.from_ldm(load_file(path), list(unet.state_dict()), vae.state_dict(), list(text.state_dict()))
        for module, state in zip((unet, vae, text), parts, strict=True):
            module.load_state_dict(state)
            module.requires_grad_(False)
        return cls(unet, vae, text, device)

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> Tensor:
        """Conditioning (n, 77, width)."""
        return self.text(tokenize(self.tokenizer, prompts).to(self.device)).last_hidden_state

    @torch.no_grad()
    def sample(
        self, prompts: list[str], seed: int, steps: int = 20, cfg: float = 5.0, negative: str = ""
    ) -> np.ndarray:
        """Pictures (n, 96, 96, 3) uint8, one for each prompt; picture k has noise seed `seed` + k on every device."""
        n = len(prompts)
        noise = [torch.randn((4, LATENT, LATENT), generator=torch.Generator().manual_seed(seed + k)) for k in range(n)]
        x = torch.stack(noise).to(self.device)
        context = torch.cat([self.encode_text([negative]).expand(n, -1, -1), self.encode_text(prompts)])
        alphas = alphas_cumprod().float().to(self.device)
        times = torch.linspace(999, 0, steps + 1).round().long()[:-1]
        for k, t in enumerate(times):
            a = alphas[t]
            a_next = alphas[times[k + 1]] if k + 1 < steps else torch.ones((), device=self.device)
            out = self.unet(torch.cat([x, x]), t.to(self.device), context).sample
            free, guided = out.chunk(2)
            eps = free + cfg * (guided - free)
            x0 = (x - (1 - a).sqrt() * eps) / a.sqrt()
            x = a_next.sqrt() * x0 + (1 - a_next).sqrt() * eps
        return self.decode(x)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray:
        """Pictures (n, 96, 96, 3) uint8 of scaled latents (n, 4, 12, 12)."""
        y = torch.cat([self.vae.decode(part / SCALE).sample for part in latents.split(16)])
        return ((y.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def contact_sheet(pictures: np.ndarray, columns: int) -> Image.Image:
    """Tile pictures (n, h, w, 3) row by row."""
    n, h, w, _ = pictures.shape
    sheet = Image.new("RGB", (columns * w, -(-n // columns) * h), "white")
    for k, picture in enumerate(pictures):
        sheet.paste(Image.fromarray(picture), (k % columns * w, k // columns * h))
    return sheet
