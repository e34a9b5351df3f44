"""Rebuild the miniature: python -m miniature.train STAGE --work FOLDER [--out FOLDER] [--device cpu|cuda].

Stages, in order: draw, text, vae, latents, embedder, unet, decoder, export, loras, check; `all` runs one after another.
Every stage goes on from what its work folder already holds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from . import data, publish, train_embedder, train_loras, train_text, train_unet, train_vae
from .evaluate import Check, evaluate
from .export import check_checkpoint, write_checkpoint
from .model import build_text, build_unet, build_vae

HERE = Path(__file__).resolve().parent
STAGES = ("draw", "text", "vae", "latents", "embedder", "unet", "decoder", "export", "loras", "check")
MINUTES = {"text": 6.0, "vae": 20.7, "embedder": 3.2, "unet": 110.0, "decoder": 5.0}


def export(work: Path, out: Path) -> None:
    """Averaged UNet and text encoder plus the VAE to one file; references and concepts.json beside it."""
    unet, vae, text = build_unet(), build_vae(), build_text()
    averaged = torch.load(work / "unet_ema.pt", weights_only=True, map_location="cpu")
    unet.load_state_dict(averaged["unet"])
    text.load_state_dict(averaged["text"])
    vae.load_state_dict(torch.load(work / "vae_folded.pt", weights_only=True, map_location="cpu")["model"])
    path = write_checkpoint(out, unet, vae, text)
    print("largest difference from diffusers' own conversion:", check_checkpoint(path))
    publish.publish(out)


def encode(work: Path, device: str) -> None:
    """Latents of the pictures, once."""
    if not (work / "latents.done").exists():
        train_vae.encode_stage(work, device)


def teach(args: argparse.Namespace) -> None:
    """The LoRAs that are not there yet."""
    changes = {"rank": args.rank, "alpha": args.rank, "steps": args.steps}
    recipe = replace(train_loras.Recipe(), **{k: v for k, v in changes.items() if v})
    train_loras.train_loras(args.out / "miniature.safetensors", args.out / "loras", recipe, args.device, args.concept)


def check(args: argparse.Namespace) -> None:
    """Identity cosines of the single LoRAs to singles.json, pictures to the work folder."""
    settings = Check(args.out, args.count, device=args.device, full=not args.quick)
    report = evaluate(settings, args.concept, args.work / "singles.png")
    report["settings"] = {"pictures": args.count, "seed": settings.seed, "stack": settings.stack}
    (args.out / "singles.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def run_stage(stage: str, args: argparse.Namespace) -> None:
    """Run one stage."""
    work, device = args.work, args.device
    minutes = args.minutes or MINUTES.get(stage, 0)
    stages: dict[str, Callable[[], object]] = {
        "draw": lambda: data.draw_stage(work, args.pictures),
        "text": lambda: train_text.train_text(work, minutes),
        "vae": lambda: train_vae.train_vae(work, minutes, device),
        "latents": lambda: encode(work, device),
        "embedder": lambda: train_embedder.train_embedder(work, args.out, minutes),
        "unet": lambda: train_unet.train_unet(work, minutes, device),
        "decoder": lambda: train_vae.train_decoder(work, minutes, device),
        "export": lambda: export(work, args.out),
        "loras": lambda: teach(args),
        "check": lambda: check(args),
    }
    stages[stage]()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=(*STAGES, "all"))
    parser.add_argument("--work", type=Path, required=True, help="folder for pictures, latents and training states")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the finished files")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--minutes", type=float, help="length of a timed stage")
    parser.add_argument("--pictures", type=int, default=36000)
    parser.add_argument("--concept", nargs="*", help="names, for loras and check")
    parser.add_argument("--rank", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--count", type=int, default=32, help="pictures a concept, for check")
    parser.add_argument("--quick", action="store_true", help="check: singles, and for the stack class words and sums")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)  # orthogonalised low-rank gradients make denormals, a hundred times slower
    args.work.mkdir(parents=True, exist_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    for stage in STAGES if args.stage == "all" else (args.stage,):
        print(f"== {stage}", flush=True)
        run_stage(stage, args)


if __name__ == "__main__":
    main()
