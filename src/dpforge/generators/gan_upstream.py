"""Training as in the code that this generator was first published with. NOT DP; to reproduce it only.

Batches are the first rows of a permutation, no gradient is clipped, and the noise of a tensor is one number:
its hook took the shape of the last parameter. Differences between two entries of a gradient have no noise.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dpforge.errors import Interrupted, RunError
from dpforge.generators.base import RunContext
from dpforge.generators.gan_module import scores, seeded
from dpforge.generators.gan_records import Records
from dpforge.generators.gan_settings import GANSettings
from dpforge.generators.gan_training import Networks

UPSTREAM_REASON = "no clipping, one noise number a tensor, batches that are no Poisson sample: NOT DP"


def train_upstream(
    networks: Networks, records: Records, settings: GANSettings, sigma: float | None, run: RunContext
) -> nn.Module:
    """Train for whole rounds of ``n_critics`` critic steps and one generator step; return the generator.

    Args:
        networks: Trained in place.
        records: Private records, read without any privacy.
        settings: Learning rates, ``n_critics`` and ``weight_clip``; its loss, optimiser and constraint are
            those of the original whatever it says.
        sigma: Scale of the noise before the division by the batch; None for none.
        run: Seed, progress, log.

    Raises:
        Interrupted: The run was asked to stop; nothing is kept.
    """
    run.access.open_access("train")
    if not len(records):
        raise RunError("mode=upstream cannot train on no records at all. Use mode=dp.")
    generator, critic = networks.generator, networks.critic
    steps = settings.critic.steps
    rounds = steps // settings.n_critics
    critic_optimizer = torch.optim.RMSprop(critic.parameters(), settings.critic.learning_rate)
    generator_optimizer = torch.optim.RMSprop(generator.parameters(), settings.generator.learning_rate)
    with seeded(int(run.random.generator("upstream").integers(2**62))):
        for number in range(rounds):
            loss = 0.0
            for _ in range(settings.n_critics):
                loss = _critic_step(networks, records, settings, sigma, critic_optimizer)
            fakes = generator(networks.noise(settings.generator_rows))
            generator_optimizer.zero_grad()
            (-scores(critic(fakes)).mean()).backward()
            generator_optimizer.step()
            run.log(number + 1, {"train/loss": loss}, "private")
            run.progress(number + 1, rounds, {"loss": loss})
            if run.stopping():
                raise Interrupted(f"stopped after round {number + 1} of {rounds}; mode=upstream starts anew.")
    return generator.eval()


def _critic_step(
    networks: Networks,
    records: Records,
    settings: GANSettings,
    sigma: float | None,
    optimizer: torch.optim.Optimizer,
) -> float:
    critic, rows = networks.critic, settings.generator_rows
    real = records.real(torch.randperm(len(records))[:rows])
    fake = networks.generator(networks.noise(rows)).detach()
    loss = -(scores(critic(real)).mean() - scores(critic(fake)).mean())
    optimizer.zero_grad()
    loss.backward()
    if sigma:
        _add_broadcast_noise(list(critic.parameters()), sigma / rows)
    optimizer.step()
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.clamp_(-settings.weight_clip, settings.weight_clip)
    return float(loss.detach())


def _add_broadcast_noise(parameters: list[nn.Parameter], scale: float) -> None:
    last: Tensor = parameters[-1]
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad += scale * torch.randn(last.shape)
