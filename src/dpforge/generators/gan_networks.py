"""The built-in networks of a GAN for a table or for images, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from dpforge.data import ImageSchema
from dpforge.data.encode.cells import CellCodec
from dpforge.errors import ConfigError
from dpforge.generators.gan_fitted import generated, standard_normal
from dpforge.generators.gan_module import seeded
from dpforge.generators.gan_training import Networks
from dpforge.nets.gan import (
    BUILDERS,
    SIZES,
    categorical_mlp,
    conv_critic,
    conv_generator,
    resnet18_gn,
    supported_size,
)


def table_networks(
    codec: CellCodec, noise_dim: int, hidden: Sequence[int], temperature: float, seed: int
) -> Networks:
    """Return networks of a categorical table with weights drawn from ``seed``."""
    with seeded(seed):
        generator, critic = categorical_mlp(noise_dim, hidden, codec.sizes, temperature)
    return Networks(generator, critic, standard_normal(noise_dim))


def image_size(schema: ImageSchema, network: str) -> int:
    """Return the size of the networks' images, at least that of the schema's.

    Raises:
        ConfigError: The network does not go as far.
    """
    size = supported_size(network, schema.height, schema.width)
    if size is None:
        known = ", ".join(str(size) for size in BUILDERS.get(network, tuple(SIZES)))
        raise ConfigError(
            f"model.network={network} makes images of up to {known} pixels; '{schema.name}' has"
            f" {schema.height} x {schema.width}. Choose model.network=auto, or a smaller dataset.size."
        )
    return size


def image_networks(
    schema: ImageSchema, network: str, critic: str, noise_dim: int, width: int, classes: int, seed: int
) -> Networks:
    """Return networks of images with weights drawn from ``seed``; ``width`` 0 takes the size's own."""
    size = image_size(schema, network)
    with seeded(seed):
        generator = conv_generator(size, schema.channels, noise_dim, classes, width)
        judge: nn.Module = conv_critic(size, schema.channels, classes, width)
        if critic == "resnet18_gn":
            judge = resnet18_gn(size, schema.channels, classes)
    return Networks(generator, judge, standard_normal(noise_dim))


def own_networks(
    generator: Any, critic: Any, noise_dim: int, shape: tuple[int, ...], classes: int, seed: int
) -> Networks:
    """Return modules that a configuration made, their weights drawn again from ``seed``.

    Args:
        generator, critic: Modules.
        noise_dim: Width of the noise.
        shape: Shape of an encoded record, which the generator must make.
        classes: Number of classes that both are called with; 0 for none.
        seed: Public.

    Raises:
        ConfigError: One of the two is no module, or the generator makes something else.
    """
    for name, given in (("generator", generator), ("critic", critic)):
        if not isinstance(given, nn.Module):
            raise ConfigError(f"model.{name} is {type(given).__name__}: expected a module with its _target_.")
    networks = Networks(generator, critic, standard_normal(noise_dim)).fresh(seed)
    labels = torch.zeros(1, dtype=torch.int64) if classes else None
    made = generated(networks.generator.eval(), networks.noise, 1, np.random.default_rng(0), labels)
    if made.shape[1:] != shape:
        raise ConfigError(
            f"model.generator makes records of shape {tuple(made.shape[1:])}; expected {shape}."
            " Change its last layer, or the data set's size."
        )
    networks.generator.train()
    return networks
