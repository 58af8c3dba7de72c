"""``dpforge-convert CHECKPOINT OUT``: a checkpoint of OpenAI's improved diffusion as a diffusers folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from dpforge.cli.errors import clean_errors

_EPILOG = """\
dpforge-convert imagenet64_cond_270M_250K.pt models/imagenet64
dpforge model=private_evolution model/api=improved_diffusion model.api.checkpoint=models/imagenet64 …

The defaults are those of imagenet64_cond_270M_250K.pt. Nothing in the checkpoint is executed.
One forward pass is computed from the checkpoint and from the new network, and compared, before it is written.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exits with 2 when the checkpoint cannot be used or the comparison fails."""
    arguments = _parser().parse_args(argv)
    with clean_errors():
        from dpforge.pretrain.conversion import Conversion, convert

        settings = Conversion(
            heads=arguments.heads,
            image_size=arguments.image_size,
            noise_schedule=arguments.noise_schedule,
            diffusion_steps=arguments.diffusion_steps,
            rescale_timesteps=arguments.rescale_timesteps,
            half=arguments.half,
        )
        record = convert(arguments.checkpoint, arguments.out, settings)
        _print(record, arguments.out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dpforge-convert",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, help="a .pt file of tensors")
    parser.add_argument("out", type=Path, help="a folder that does not exist yet")
    parser.add_argument("--heads", type=int, default=4, help="attention heads (default: 4)")
    parser.add_argument("--image-size", type=int, default=64, help="pixels of a side (default: 64)")
    parser.add_argument("--noise-schedule", default="cosine", help="cosine or linear (default: cosine)")
    parser.add_argument("--diffusion-steps", type=int, default=4000, help="trained steps (default: 4000)")
    parser.add_argument("--rescale-timesteps", action="store_true", help="times were scaled to 0 … 1000")
    parser.add_argument("--half", action="store_true", help="write float16 weights: half the size")
    return parser


def _print(record: dict[str, object], out: Path) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{out}: {record['parameters']:,} parameters", markup=False)
    console.print(f"largest difference of a forward pass: {record['largest_difference']:.2g}")


if __name__ == "__main__":
    main()
