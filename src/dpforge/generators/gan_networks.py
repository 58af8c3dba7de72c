"""The built-in networks of a GAN for a table or for images, by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dpforge.data import ImageSchema
from dpforge.data.encode.cells import CellCodec
from dpforge.errors import ConfigError
from dpforge.generators.gan_fitted import generated, standard_normal
from dpforge.generators.gan_module import NoiseFunction, called, scores, seeded
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
        ConfigError: One of the two is no module, the generator makes something else, or the critic does
            not score that.
    """
    for name, given in (("generator", generator), ("critic", critic)):
        if not isinstance(given, nn.Module):
            raise ConfigError(f"model.{name} is {type(given).__name__}: expected a module with its _target_.")
    networks = Networks(generator, critic, standard_normal(noise_dim)).fresh(seed)
    labels = torch.zeros(2, dtype=torch.int64) if classes else None
    fakes = trial_fakes(networks.generator, networks.noise, labels)
    if fakes.shape[1:] != shape:
        raise ConfigError(
            f"model.generator makes records of shape {tuple(fakes.shape[1:])}; expected {shape}."
            " Change its last layer, or the data set's size."
        )
    check_critic(networks.critic, fakes, labels)
    networks.generator.train()
    return networks


def trial_fakes(generator: nn.Module, noise: NoiseFunction, labels: Tensor | None = None) -> Tensor:
    """Return two fakes of a generator, which stays in the mode it is in."""
    with _evaluated(generator):
        return generated(generator, noise, 2, np.random.default_rng(0), labels)


def check_critic(critic: nn.Module, fakes: Tensor, labels: Tensor | None = None) -> None:
    """Let a critic judge fakes: what torch says of a private batch that does not fit states its size.

    Raises:
        ConfigError: It takes no such records, or does not return one score a record.
    """
    with _evaluated(critic), torch.no_grad(), seeded(0):
        try:
            found = called(critic, fakes, labels)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            said = str(error).partition("\n")[0]
            raise ConfigError(
                f"the critic takes no records of shape {tuple(fakes.shape[1:])}"
                f"{', with their classes' if labels is not None else ''}: {said}. Change its first layers."
            ) from error
    scores(found)


@contextmanager
def _evaluated(net: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode for a while: two records tell batch normalisation nothing."""
    before = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
