"""The GAN in three lines, on a DataFrame or a tensor, with any networks.

gan = DPWGAN(generator, critic, noise_function)
gan.train(data, privacy=PrivacySpec(noise_multiplier=1.0, delta=1e-6, max_grad_norm=0.3), nominal_rows=30_000)
synthetic = gan.generate(100)
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pandas as pd
import torch
from torch import Tensor, nn

from dpforge.config import check_release
from dpforge.data import Schema
from dpforge.data.encode.cells import CellCodec
from dpforge.data.table import conform
from dpforge.errors import ConfigError, DataError, RunError
from dpforge.experiment.certificate import make_certificate
from dpforge.experiment.environment import check_same_numerics, environment
from dpforge.generators.base import RunContext, Runtime
from dpforge.generators.dpwgan import DPWGAN as Settings
from dpforge.generators.gan_arguments import PrivacySpec, privacy_of, settings_of
from dpforge.generators.gan_fitted import generated
from dpforge.generators.gan_folder import opened, training_digest
from dpforge.generators.gan_frames import public_schema
from dpforge.generators.gan_layers import described, rebuilt
from dpforge.generators.gan_module import NoiseFunction
from dpforge.generators.gan_networks import check_critic, trial_fakes
from dpforge.generators.gan_records import OneHotRecords, Records, TensorRecords, decode_table
from dpforge.generators.gan_training import Networks, Sampling, train_gan
from dpforge.generators.storage import load_model, save_model, write_atomic
from dpforge.nets.gan import MultiCategoryGumbelSoftmax
from dpforge.privacy.accounting import DISCRETIZATION
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.mechanisms import PrivateAccess
from dpforge.privacy.rng import fresh_random, public_random
from dpforge.privacy.spec import PrivacySpec as AnySpec

__all__ = ["DPWGAN", "MultiCategoryGumbelSoftmax", "PrivacySpec"]


class DPWGAN:
    """A Wasserstein GAN; differentially private if :meth:`train` is given ``privacy``, else NOT DP.

    Args:
        generator: ``generator(noise)``; its output has the shape of the (one-hot) records.
        critic: ``critic(records)``, one unbounded score a record; layers with per-example gradients, no
            batch norm, no dropout.
        noise_function: ``n -> noise`` for ``n`` records, drawn from torch's own generator.
    """

    def __init__(self, generator: nn.Module, critic: nn.Module | None, noise_function: NoiseFunction) -> None:
        self.generator, self.critic, self.noise_function = generator, critic, noise_function
        self._schema: Schema | None = None
        self._codec: CellCodec | None = None
        self._certificate: dict[str, Any] | None = None
        self._failed: tuple[Path | None] | None = None
        self._ledger_lines = b""
        self._sampling = public_random(0).generator("sample")

    def train(
        self,
        data: pd.DataFrame | Tensor,
        epochs: float = 100,
        n_critics: int = 5,
        batch_size: int = 128,
        learning_rate: float = 1e-4,
        sigma: float | None = None,
        weight_clip: float | None = None,
        *,
        privacy: AnySpec | None = None,
        max_grad_norm: float | None = None,
        delta: float = 1e-6,
        nominal_rows: int | None = None,
        schema: Schema | None = None,
        categories: str | Mapping[str, Sequence[str]] | None = None,
        seed: int = 0,
        device: str = "cpu",
        folder: Path | str | None = None,
        **settings: Any,
    ) -> DPWGAN:
        """Train both networks in place and return the GAN.

        Args:
            data: A DataFrame, or a float tensor with the records in its first dimension: one-hot rows, or
                images in [-1, 1].
            epochs: Passes over the nominal rows, counted by critic steps.
            n_critics: Critic steps a generator step.
            batch_size: Expected number of records in a Poisson batch.
            learning_rate: Of both optimisers.
            sigma: Noise multiplier, with ``max_grad_norm`` and ``delta``; short for ``privacy``.
            weight_clip: Bound of every weight of the critic, 0.1 if None; with ``constraint="spectral"``
                of the spectral norm of every layer, 1 if None.
            privacy: Budget, clipping norm, delta; None trains without privacy.
            max_grad_norm, delta: With ``sigma``.
            nominal_rows: Public number of records; needed with privacy unless ``schema`` says it.
            schema: Public description of a DataFrame.
            categories: Without a schema: the public values of every column, by name; or
                ``declared_public`` to declare that those in the frame are public knowledge.
            seed: Public seed of fakes and samples.
            device: ``cpu``, ``cuda`` or ``cuda:N``.
            folder: Where ledger, noise key and checkpoints lie; the same call, with networks of the same
                form, continues a training that was interrupted there. None: a temporary folder.
            settings: More of :class:`dpforge.generators.dpwgan.DPWGAN`: ``loss``, ``optimizer``, ``ema``, …

        Raises:
            ConfigError: Settings that do not fit, or that privacy does not allow.
            DataError: Records that do not fit schema or networks.
            RunError: This GAN was trained already: its certificate would not cover a second training. Or a
                training failed, or ``folder`` holds another one.
        """
        critic = self._untrained(folder)
        spec = privacy_of(privacy, sigma, max_grad_norm, delta)
        public = public_schema(data, spec.enabled, schema, categories, nominal_rows)
        check_release(spec, public)
        chosen = settings_of(epochs, n_critics, batch_size, learning_rate, weight_clip, settings)
        records, codec = self._records(data, public)
        networks = Networks(self.generator, critic, self.noise_function)
        with tempfile.TemporaryDirectory(prefix="dpforge-") as temporary:
            place = Path(folder or temporary)
            access = _access(place, folder is not None, chosen, public, spec, seed, device, networks, records)
            run = RunContext(access, spec, Runtime(device=device, progress=False), seed, place)
            try:
                self._train(records, networks, chosen, public, run)
            except BaseException:
                if access.ledger.begun:
                    self._failed = (None if folder is None else place.resolve(),)
                raise
            access.ledger.close()
            self._ledger_lines = access.ledger.path.read_bytes()
        self._schema, self._codec = public, codec
        self._certificate = make_certificate(access.ledger, {})
        self._sampling = public_random(seed).generator("sample")
        return self

    def _untrained(self, folder: Path | str | None) -> nn.Module:
        """Return the critic of a GAN that can be trained in ``folder``."""
        if self._certificate is not None or self.critic is None:
            raise RunError("this GAN was trained already. Make another one, with new networks.")
        known = None if self._failed is None else self._failed[0]
        if self._failed is not None and (folder is None or Path(folder).resolve() != known):
            way = "" if known is None else f", or repeat the call with folder={str(known)!r} to continue it"
            raise RunError(
                "a training of this GAN was begun and failed: its networks are half trained, and no"
                f" certificate says what that spent. Make another one, with new networks{way}."
            )
        return self.critic

    def _train(
        self, records: Records, networks: Networks, chosen: Settings, public: Schema, run: RunContext
    ) -> None:
        rate, steps = chosen.rate(public), chosen.critic_steps(public)
        if run.spec.enabled:
            steps = run.access.piece("train").count
        sampling = Sampling(rate, steps, rate * public.nominal_rows)
        training = chosen.training_settings(max(round(sampling.expected_rows), 1), steps)
        self.generator = train_gan(networks, records, training, sampling, run)

    def _records(self, data: pd.DataFrame | Tensor, schema: Schema) -> tuple[Records, CellCodec | None]:
        codec = None
        if isinstance(data, pd.DataFrame):
            codec = CellCodec(schema)
            records: Records = OneHotRecords(codec.encode(conform(data, schema)).codes, codec.sizes)
            shape: tuple[int, ...] = (sum(codec.sizes),)
        else:
            records, shape = TensorRecords(data.detach().float().cpu()), tuple(data.shape[1:])
        fakes = trial_fakes(self.generator, self.noise_function)
        made = tuple(fakes.shape[1:])
        if made != shape:
            raise DataError(
                f"the generator makes records of shape {made}; those of the data have shape {shape}."
                " Change its last layer."
            )
        if self.critic is not None:
            check_critic(self.critic, fakes)
        return records, codec

    def generate(self, n: int) -> Any:
        """Return ``n`` synthetic records: a DataFrame or a tensor, as the GAN was trained on.

        Raises:
            RunError: The GAN was not trained yet.
        """
        if self._schema is None:
            raise RunError("this GAN was not trained yet: call train(data) first.")
        if n < 1:
            raise ConfigError(f"generate({n}): expected at least 1 record.")
        made = generated(self.generator.eval(), self.noise_function, n, self._sampling)
        return made if self._codec is None else decode_table(made, self._codec, self._sampling)

    def certificate(self) -> dict[str, Any]:
        """Return what the training may claim: ``status`` (DP, RESEARCH NOISE, NOT DP), ``epsilon``, caveats.

        Raises:
            RunError: The GAN was not trained yet.
        """
        if self._certificate is None:
            raise RunError("this GAN was not trained yet: call train(data) first.")
        return json.loads(json.dumps(self._certificate))

    def save(self, folder: Path | str) -> None:
        """Write generator, certificate and ledger into a folder; the critic is not kept."""
        certificate, target = self.certificate(), Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        arrays = {
            "architecture": described(self.generator),
            "noise_shape": list(self.noise_function(1).shape[1:]),
            "table": self._codec is not None,
        }
        save_model(target, self.generator.state_dict(), arrays, cast(Schema, self._schema))
        write_atomic(target / "certificate.json", json.dumps(certificate, indent=1).encode())
        write_atomic(target / "ledger.jsonl", self._ledger_lines)

    @classmethod
    def load(
        cls,
        folder: Path | str,
        generator: nn.Module | None = None,
        noise_function: NoiseFunction | None = None,
    ) -> DPWGAN:
        """Read back a saved GAN; it generates, and cannot be trained on.

        Args:
            folder: What :meth:`save` wrote.
            generator: A module of the saved one's form; needed if it has other layers than the usual ones.
            noise_function: Standard normal noise of the saved shape if None.

        Raises:
            ConfigError: A generator is needed, or the one given has another form.
            RunError: A file is missing or damaged.
        """
        tensors, arrays, schema = load_model(Path(folder))
        if generator is None and arrays["architecture"] is None:
            raise ConfigError("the saved generator has layers of its own: call load(folder, generator).")
        net = generator if generator is not None else rebuilt(arrays["architecture"])
        try:
            net.load_state_dict(tensors)
        except RuntimeError as error:
            raise ConfigError(
                "the generator has other weights than the saved one; expected its form."
            ) from error
        shape = arrays["noise_shape"]
        gan = cls(net, None, noise_function or (lambda n: torch.randn(n, *shape)))
        gan._schema = cast(Schema, schema)
        gan._codec = CellCodec(gan._schema) if arrays["table"] else None
        gan._certificate = json.loads((Path(folder) / "certificate.json").read_text(encoding="utf-8"))
        gan._ledger_lines = (Path(folder) / "ledger.jsonl").read_bytes()
        return gan


def _access(
    folder: Path,
    kept: bool,
    chosen: Settings,
    public: Schema,
    spec: AnySpec,
    seed: int,
    device: str,
    networks: Networks,
    records: Records,
) -> PrivateAccess:
    header: dict[str, Any] = {
        "unit": {"kind": "row", "column": None, "max_rows": 1},
        "rng": spec.rng,
        "schema_digest": public.digest,
        "nominal_rows": public.nominal_rows,
        "discretization": DISCRETIZATION,
    }
    plan = chosen.plan(public, spec)
    if not kept:
        ledger = Ledger.create(folder / "ledger.jsonl", plan, header)
        return PrivateAccess(ledger, fresh_random(spec.rng, spec.seed))
    header |= {
        "environment": environment(device),
        "training": training_digest(chosen, seed, networks),
    }
    access = opened(folder, plan, header, spec, networks, records)
    check_same_numerics(access.ledger.header["environment"])
    return access
