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
from dpforge.generators.base import RunContext, Runtime
from dpforge.generators.dpwgan import DPWGAN as Settings
from dpforge.generators.gan_arguments import PrivacySpec, privacy_of, settings_of
from dpforge.generators.gan_fitted import generated
from dpforge.generators.gan_frames import frame_schema, tensor_schema
from dpforge.generators.gan_layers import described, rebuilt
from dpforge.generators.gan_module import NoiseFunction
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
        self._begun, self._ledger_lines = False, b""
        self._sampling = public_random(0).generator("sample")

    def train(
        self,
        data: pd.DataFrame | Tensor,
        epochs: float = 100,
        n_critics: int = 5,
        batch_size: int = 128,
        learning_rate: float = 1e-4,
        sigma: float | None = None,
        weight_clip: float = 0.1,
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
            weight_clip: Bound of every weight of the critic.
            privacy: Budget, clipping norm, delta; None trains without privacy.
            max_grad_norm, delta: With ``sigma``.
            nominal_rows: Public number of records; needed with privacy unless ``schema`` says it.
            schema: Public description of a DataFrame.
            categories: Without a schema: the public values of every column, by name; or
                ``declared_public`` to declare that those in the frame are public knowledge.
            seed: Public seed of fakes and samples.
            device: ``cpu``, ``cuda`` or ``cuda:N``.
            folder: Where ledger and checkpoints lie; a temporary folder if None.
            settings: More of :class:`dpforge.generators.dpwgan.DPWGAN`: ``loss``, ``optimizer``, ``ema``, …

        Raises:
            ConfigError: Settings that do not fit, or that privacy does not allow.
            DataError: Records that do not fit schema or networks.
            RunError: This GAN was trained already: its certificate would not cover a second training.
        """
        if self._begun or self.critic is None:
            raise RunError("this GAN was trained already. Make another one, with new networks.")
        spec = privacy_of(privacy, sigma, max_grad_norm, delta)
        public = _public_schema(data, spec, schema, categories, nominal_rows)
        chosen = settings_of(epochs, n_critics, batch_size, learning_rate, weight_clip, settings)
        records, codec = self._records(data, public)
        self._begun = True
        with tempfile.TemporaryDirectory(prefix="dpforge-") as temporary:
            ledger = _ledger(Path(folder or temporary), chosen, public, spec)
            access = PrivateAccess(ledger, fresh_random(spec.rng, spec.seed))
            run = RunContext(access, spec, Runtime(device=device, progress=False), seed, ledger.path.parent)
            self._train(records, self.critic, chosen, public, run)
            ledger.close()
            self._ledger_lines = ledger.path.read_bytes()
        self._schema, self._codec = public, codec
        self._certificate = make_certificate(ledger, {})
        self._sampling = public_random(seed).generator("sample")
        return self

    def _train(
        self, records: Records, critic: nn.Module, chosen: Settings, public: Schema, run: RunContext
    ) -> None:
        rate, steps = chosen.rate(public), chosen.critic_steps(public)
        if run.spec.enabled:
            steps = run.access.piece("train").count
        sampling = Sampling(rate, steps, rate * public.nominal_rows)
        training = chosen.training_settings(max(round(sampling.expected_rows), 1), steps)
        networks = Networks(self.generator, critic, self.noise_function)
        self.generator = train_gan(networks, records, training, sampling, run)

    def _records(self, data: pd.DataFrame | Tensor, schema: Schema) -> tuple[Records, CellCodec | None]:
        codec = None
        if isinstance(data, pd.DataFrame):
            codec = CellCodec(schema)
            records: Records = OneHotRecords(codec.encode(conform(data, schema)).codes, codec.sizes)
            shape: tuple[int, ...] = (sum(codec.sizes),)
        else:
            records, shape = TensorRecords(data.detach().float().cpu()), tuple(data.shape[1:])
        training = self.generator.training
        self.generator.eval()  # one record has no variance for batch normalisation
        made = generated(self.generator, self.noise_function, 1, public_random(0).generator("check")).shape[
            1:
        ]
        self.generator.train(training)
        if tuple(made) != shape:
            raise DataError(
                f"the generator makes records of shape {tuple(made)}; those of the data have shape {shape}."
                " Change its last layer."
            )
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


def _public_schema(
    data: pd.DataFrame | Tensor,
    spec: AnySpec,
    schema: Schema | None,
    categories: str | Mapping[str, Sequence[str]] | None,
    nominal_rows: int | None,
) -> Schema:
    """Return what the public knows of the records."""
    if nominal_rows is None and schema is None:
        if spec.enabled:
            raise ConfigError(
                "privacy needs nominal_rows, a public number of records: their exact number is private too."
            )
        nominal_rows = max(len(data), 1)
    if isinstance(data, pd.DataFrame):
        public = (
            frame_schema(data, categories, int(nominal_rows or 0), spec.enabled) if schema is None else schema
        )
    elif isinstance(data, Tensor) and data.dim() >= 2:
        public = tensor_schema(int(nominal_rows or 0))
    else:
        raise DataError(f"train({type(data).__name__}): expected a DataFrame, or a tensor (n, …).")
    public = public if nominal_rows is None else public.with_nominal_rows(nominal_rows)
    check_release(spec, public)
    if public.private_columns or public.unit.kind != "row":
        raise ConfigError(
            f"schema '{public.name}' buys values or protects users; here every value must be public and every"
            " record a unit. Use the command: dpforge model=dpwgan dataset=csv."
        )
    return public


def _ledger(folder: Path, chosen: Settings, public: Schema, spec: AnySpec) -> Ledger:
    folder.mkdir(parents=True, exist_ok=True)
    header = {
        "unit": {"kind": "row", "column": None, "max_rows": 1},
        "rng": spec.rng,
        "schema_digest": public.digest,
        "nominal_rows": public.nominal_rows,
        "discretization": DISCRETIZATION,
    }
    return Ledger.create(folder / "ledger.jsonl", chosen.plan(public, spec), header)
