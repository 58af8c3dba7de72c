"""Makes the weights of ``lenet_public``: ``python -m dpforge.features.train_lenet``.

The net learns digits rendered with the fonts inside matplotlib and Pillow, new ones in every epoch.
Everything is public and comes from a seed; the same libraries on the same machine give the same file. The
settings were fixed beforehand: no data set of handwriting was looked at to choose them.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from dpforge.data.glyphs import DIGITS, GlyphRanges, draw_glyphs, find_fonts, render_glyphs
from dpforge.nets.images import to_unit
from dpforge.nets.lenet import LeNet

RANGES = GlyphRanges(
    size=(18.0, 32.0), stroke=(0, 2), rotation=(-20.0, 20.0), slant=(-0.3, 0.5), scale=(0.7, 1.3),
    dx=(-2.0, 2.0), dy=(-2.0, 2.0), elastic=(0.0, 1.5),
)  # fmt: skip
BATCH, LEARNING_RATE, WEIGHT_DECAY = 128, 2e-3, 1e-4
TEST_STREAM = 10**6


def rendered_digits(n: int, rng: np.random.Generator, ranges: GlyphRanges = RANGES) -> tuple[Tensor, Tensor]:
    """Images float32 ``(n, 1, 28, 28)`` in [0, 1] and labels int64 ``(n,)`` of rendered digits."""
    fonts = find_fonts(system=False)
    glyphs = draw_glyphs(n, DIGITS, fonts, ranges, rng)
    images = to_unit(render_glyphs(glyphs, DIGITS, fonts, LeNet.size, LeNet.size))
    return images, torch.from_numpy(glyphs["text"].astype(np.int64))


def train(images: int, epochs: int, seed: int, told: Callable[[int, float], None] = lambda *_: None) -> LeNet:
    """Train with AdamW and a cosine schedule; ``told`` hears epoch and mean loss.

    Args:
        images: Rendered images of an epoch, at least 128.
        epochs: Epochs, each with images of its own.
        seed: Decides the initial weights and the images.
        told: Hears of each epoch.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = LeNet()
    optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * (images // BATCH))
    for epoch in range(epochs):
        x, y = rendered_digits(images, np.random.default_rng([seed, epoch]))
        losses = []
        for start in range(0, images // BATCH * BATCH, BATCH):
            loss = functional.cross_entropy(net(x[start : start + BATCH]), y[start : start + BATCH])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        told(epoch, float(np.mean(losses)))
    return net.eval()


@torch.inference_mode()
def accuracy(net: LeNet, x: Tensor, y: Tensor) -> float:
    """Share of images ``(n, 1, 28, 28)`` whose class is recognised, in [0, 1]."""
    found = torch.cat([net(part).argmax(dim=1) for part in x.split(1024)])
    return float((found == y).float().mean())


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, report the accuracy on other rendered digits, and write the weights in half precision."""
    parser = argparse.ArgumentParser(description="Train lenet_public on rendered digits.")
    parser.add_argument("--output", type=Path, default=Path("lenet_public.safetensors"))
    parser.add_argument("--images", type=int, default=60_000, help="rendered images of an epoch")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    net = train(
        given.images, given.epochs, given.seed, lambda e, loss: print(f"epoch {e}: {loss:.4f}", flush=True)
    )
    x, y = rendered_digits(min(given.images, 10_000), np.random.default_rng([given.seed, TEST_STREAM]))
    save_file({name: tensor.half().contiguous() for name, tensor in net.state_dict().items()}, given.output)
    digest = hashlib.sha256(given.output.read_bytes()).hexdigest()
    print(f"accuracy on other rendered digits: {accuracy(net, x, y):.4f}")
    print(f"{given.output}: {given.output.stat().st_size} bytes, sha256 {digest}")


if __name__ == "__main__":
    main()
