"""A finished TabularARGN: rows, rows with given cells, imputed tables, probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dpforge.data import Schema
from dpforge.data.constraints import add_derived, repair
from dpforge.data.encode.refine import FineCodec
from dpforge.errors import ConfigError, DataError, did_you_mean
from dpforge.generators.argn_given import balanced_cells, given_codes, patterns, without_derived
from dpforge.generators.argn_marginals import Marginals, Pieces
from dpforge.generators.argn_sampling import Drawing, cells_of, draw_codes
from dpforge.generators.storage import save_model
from dpforge.nets.autoregressive import AutoregressiveNet

CHUNK = 50_000
CANDIDATES = 64


class FittedARGN:
    """A finished network with its codec; reads no private data.

    Args:
        fine: Codec of the modelled columns.
        marginals: Released one-way statistics.
        pieces: Codes of the network.
        schema: Schema of whole rows, with released values filled in.
        net: Trained network.
        any_order: Whether it was trained in random orders, so that any columns may come first.
        recalibrate: Whether :meth:`sample` restores the released marginals.
    """

    def __init__(
        self,
        fine: FineCodec,
        marginals: Marginals,
        pieces: Pieces,
        schema: Schema,
        net: AutoregressiveNet,
        *,
        any_order: bool,
        recalibrate: bool,
    ) -> None:
        self.fine, self.marginals, self.pieces, self.schema = fine, marginals, pieces, schema
        self.net, self.any_order, self.recalibrate = net.eval(), any_order, recalibrate
        self._home = list(net.order)
        self.codec_name = _codec_name(fine, schema)

    def sample(self, rows: int, rng: np.random.Generator) -> pd.DataFrame:
        """Return ``rows`` synthetic rows; marginals are restored within chunks of 50,000 rows."""
        return self.generate(rows, rng)

    def generate(
        self, rows: int, rng: np.random.Generator, *, temperature: float = 1.0, top_p: float = 1.0
    ) -> pd.DataFrame:
        """Return synthetic rows drawn at a temperature, or from the likeliest codes only.

        Args:
            rows: Number of rows, >= 0.
            rng: Public randomness.
            temperature: Below 1 for likelier rows, above for more varied ones.
            top_p: See :func:`~dpforge.generators.argn_sampling.tempered`.
        """
        plain = temperature == 1 and top_p == 1
        drawing = Drawing(temperature, top_p, self.recalibrate and plain)
        self.net.set_order(self._home)
        parts = []
        for start in range(0, max(rows, 1), CHUNK):
            count = min(CHUNK, rows - start)
            with torch.no_grad():
                codes, _ = draw_codes(self.net, self.fine.codec.null_of, count, rng, drawing)
            parts.append(self._decode(codes, rng))
        return pd.concat(parts, ignore_index=True)

    def complete(
        self,
        given: pd.DataFrame,
        rng: np.random.Generator,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        candidates: int = CANDIDATES,
        allow_missing: bool = True,
    ) -> pd.DataFrame:
        """Return one row for each row of ``given``: its cells kept, the missing ones drawn by the model.

        A model trained in random orders draws from its exact conditional distribution. One of fixed order
        draws ``candidates`` rows for each and keeps one in proportion to the probability of the given cells
        (sampling importance resampling), which approaches the conditional distribution as they grow.

        The result is as private as ``given``: the certificate covers the model, not these cells.

        Args:
            given: Some columns of the schema; missing cells are drawn.
            rng: Public randomness.
            temperature, top_p: See :meth:`generate`.
            candidates: Rows to choose from, >= 1.
            allow_missing: Whether a drawn cell may itself be a missing value.

        Raises:
            DataError: A column or value that the schema does not know.
        """
        if candidates < 1:
            raise ConfigError(f"candidates={candidates!r}: expected an integer >= 1.")
        given = without_derived(given, self.schema)
        whole, cells = given_codes(given, self, rng)
        drawing = Drawing(temperature, top_p)
        codes = torch.zeros_like(cells)
        with torch.no_grad():
            for chosen, known in patterns(cells, self.fine.codec.columns):
                self._lead_with(known)
                for rows in np.array_split(chosen, max(len(chosen) * candidates // CHUNK, 1)):
                    codes[rows] = self._completed(cells[rows], rng, drawing, candidates, allow_missing)
        self.net.set_order(self._home)
        drawn = self._decode(codes, rng)
        for name in given.columns:
            drawn[name] = drawn[name].where(whole[name].isna(), whole[name])
        return drawn

    def impute(self, frame: pd.DataFrame, rng: np.random.Generator, *, draws: int = 1) -> list[pd.DataFrame]:
        """Return ``draws`` tables in which every missing cell of ``frame`` is drawn given the others."""
        return [self.complete(frame, rng, allow_missing=False) for _ in range(draws)]

    def rebalance(
        self, rows: int, rng: np.random.Generator, shares: Mapping[str, Mapping[str, float]]
    ) -> pd.DataFrame:
        """Return rows in which one column has given proportions.

        Args:
            rows: Number of rows.
            rng: Public randomness.
            shares: ``{column: {value: share}}`` for one categorical column; values that are not named share
                the rest in proportion to the released marginal.

        Raises:
            ConfigError: More than one column, an unknown value, or shares outside [0, 1].
        """
        return self.complete(balanced_cells(rows, rng, shares, self), rng)

    def predict_proba(self, frame: pd.DataFrame, column: str) -> pd.DataFrame:
        """Return p(column | all other columns), ``(n, K)`` with one column a code: K passes of the network.

        Exact in any order, for it is the normalised joint probability.

        Args:
            frame: Typed rows of all other columns.
            column: A column that is one sub-column.
        """
        names = self.fine.codec.schema.names
        if column not in names:
            raise DataError(f"the model has no column '{column}'.{did_you_mean(column, names)}")
        subs = self.fine.codec.columns[names.index(column)]
        if len(subs) != 1:
            raise DataError(f"column '{column}' is written in {len(subs)} parts; expected one.")
        filled = frame.assign(
            **{column: self.sample(len(frame), np.random.default_rng(0))[column].to_numpy()}
        )
        codes = self._codes(filled)
        labels = self.fine.codec.labels(subs[0])
        with torch.no_grad():
            joint = [self._joint(codes, subs[0], piece) for piece in range(self.net.sizes[subs[0]])]
        shares = torch.softmax(torch.stack(joint, 1), 1).numpy()
        of_cell, inside = self.pieces.of_cell[subs[0]], self.pieces.cell_masses[subs[0]]
        found = shares[:, of_cell] * inside
        return pd.DataFrame(found, columns=list(labels), index=frame.index)

    def _joint(self, codes: Tensor, sub: int, piece: int) -> Tensor:
        changed = codes.clone()
        changed[:, sub] = piece
        return self.net.log_probs(changed).double().sum(1)

    def log_prob(self, frame: pd.DataFrame) -> np.ndarray:
        """Return the log-probability ``(n,)`` in nats of the cells of rows, uniform within a cell.

        Fine cells count relative to the width of their bin, so that models with the same public bins compare.
        Private for real rows.
        """
        with torch.no_grad():
            modelled = self.net.log_probs(self._codes(frame)).double().sum(1).numpy()
        return modelled + self._cell_terms(frame, self.pieces.cell_masses)

    def independent_log_prob(self, frame: pd.DataFrame) -> np.ndarray:
        """Return what :meth:`log_prob` would be with the released marginals alone, ``(n,)``."""
        return self._cell_terms(frame, self.marginals.masses)

    def _cell_terms(self, frame: pd.DataFrame, masses: Sequence[np.ndarray]) -> np.ndarray:
        fine = self._encode(frame)
        total = np.zeros(len(fine))
        for sub, (mass, width) in enumerate(zip(masses, self.fine.widths, strict=True)):
            terms = np.log(mass) - np.log(width)
            total += np.where(self._there(fine, sub), terms[fine[:, sub]], 0.0)
        return total

    def save(self, folder: Path) -> None:
        """Write the model; see :func:`dpforge.generators.storage.save_model`."""
        arrays = {"marginals": self.marginals.to_json(), "order": self._home, "pairs": self.net.pairs}
        save_model(folder, self.net.state_dict(), arrays, self.schema)

    def _codes(self, frame: pd.DataFrame) -> Tensor:
        fine = self._encode(frame)
        return piece_codes(fine, self.fine, self.pieces)

    def _encode(self, frame: pd.DataFrame) -> np.ndarray:
        return self.fine.codec.encode(pd.DataFrame(frame[list(self.fine.codec.schema.names)]))

    def _there(self, fine: np.ndarray, sub: int) -> np.ndarray:
        null = self.fine.codec.null_of[sub]
        return np.ones(len(fine), bool) if null < 0 else fine[:, null] == 0

    def _lead_with(self, known: Sequence[int]) -> None:
        if self.any_order:
            rest = [column for column in self._home if column not in known]
            self.net.set_order([*(column for column in self._home if column in known), *rest])

    def _completed(
        self, cells: Tensor, rng: np.random.Generator, drawing: Drawing, candidates: int, allow_missing: bool
    ) -> Tensor:
        count = 1 if self.any_order else candidates
        forbidden = None if allow_missing else self._missing_codes()
        codes, weight = draw_codes(
            self.net,
            self.fine.codec.null_of,
            len(cells) * count,
            rng,
            drawing,
            given=cells.repeat_interleave(count, dim=0),
            forbidden=forbidden,
        )
        scores = weight.view(-1, count) + torch.from_numpy(rng.gumbel(size=(len(cells), count)))
        return codes.view(len(cells), count, -1)[torch.arange(len(cells)), scores.argmax(1)]

    def _missing_codes(self) -> list[Tensor | None]:
        """The codes that mean a missing value, by sub-column."""
        found: list[Tensor | None] = [None] * len(self.net.sizes)
        for column, subs in zip(self.fine.codec.schema.columns, self.fine.codec.columns, strict=True):
            if column.nullable:
                code = torch.zeros(self.net.sizes[min(subs)], dtype=torch.bool)
                code[1 if len(subs) > 1 else 0] = True
                found[min(subs)] = code
        return found

    def _decode(self, codes: Tensor, rng: np.random.Generator) -> pd.DataFrame:
        fine = np.empty((len(codes), len(self.net.sizes)), dtype=np.int64)
        for sub, (of_cell, inside) in enumerate(
            zip(self.pieces.of_cell, self.pieces.cell_masses, strict=True)
        ):
            pieces = codes[:, sub].numpy()
            there = pieces < self.net.sizes[sub]
            fine[:, sub] = cells_of(np.where(there, pieces, 0), of_cell, inside, rng)
        frame = self.fine.codec.decode(fine, rng)
        return repair(add_derived(frame, self.schema), self.schema)


def _codec_name(fine: FineCodec, schema: Schema) -> str:
    """The public cells that probabilities refer to; derived columns follow from the others."""
    parts = "" if len(fine.codec.columns) == len(fine.codec.sizes) else " in sub-columns"
    return f"cells of schema {schema.name} {schema.digest[:8]}{parts}"


def piece_codes(fine: np.ndarray, codec: FineCodec, pieces: Pieces) -> Tensor:
    """Return the codes of the network, int64 ``(n, S)``, from fine codes; see :class:`AutoregressiveNet`."""
    found = np.empty(fine.shape, dtype=np.int64)
    for sub, of_cell in enumerate(pieces.of_cell):
        found[:, sub] = of_cell[fine[:, sub]]
        null = codec.codec.null_of[sub]
        if null >= 0:
            found[fine[:, null] == 1, sub] = len(pieces.masses[sub])
    return torch.from_numpy(found)
