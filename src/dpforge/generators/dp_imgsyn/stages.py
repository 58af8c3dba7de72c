"""The four stages in their order, each from what an earlier attempt left on disk."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from dpforge.data import ImageDataset
from dpforge.errors import Interrupted
from dpforge.generators.base import RunContext
from dpforge.generators.dp_imgsyn.fitted import FittedImgSyn, ReleasedImages, new_student
from dpforge.generators.dp_imgsyn.public import balanced, candidates, check_same_public, public_images
from dpforge.generators.dp_imgsyn.statistics import (
    REFERENCE_IMAGES,
    STATISTICS,
    LayerStatistics,
    count_coordinate,
    moments_of,
    norm_layers,
    public_reference,
    recorded_statistics,
    release_vector,
    released_statistics,
    standard_error,
    warn_of_noise,
)
from dpforge.generators.dp_imgsyn.student import Lessons, logits_of, student_optimizer, train_student
from dpforge.generators.dp_imgsyn.synthesis import TERMS, Target, aligned
from dpforge.generators.dp_imgsyn.teacher import new_teacher, train_teacher
from dpforge.generators.dp_imgsyn.transform import normalization_of
from dpforge.generators.storage import load_state, save_state, write_atomic
from dpforge.generators.training import TrainingData
from dpforge.privacy.sampling import PoissonSampler

if TYPE_CHECKING:
    from dpforge.generators.dp_imgsyn.generator import DPImgSyn

UPSTREAM_BATCH, UPSTREAM_EPOCHS = 64, 5
CSV = "synthesis.csv"


class Stages:
    """One run of DP-ImgSyn.

    Args:
        model: Settings.
        data: Private images; read by the teacher's training and by the one release of statistics.
        run: Access, checkpoints, log.
    """

    def __init__(self, model: DPImgSyn, data: ImageDataset, run: RunContext) -> None:
        self.model, self.data, self.run = model, data, run
        self.schema, self.device = data.schema, run.runtime.device
        self.public, self.public_classes = public_images(model.public, data.schema)
        # Without noise a value is private, whatever it is called.
        self.clean = model.not_dp or not run.spec.enabled
        self.order = candidates(
            model.num_samples, len(self.public), model.public_seed, model.public_index_file
        )
        check_same_public(run, self.public, self.public_classes, self.order)
        first = self.public.take(self.order[: model.num_samples])
        self.normalization = normalization_of(model.normalization, data.schema, first)
        self.steps = run.access.piece("train").count if run.spec.enabled else model.steps(data.schema)
        self.batch = model.synthesis.batch_size or 8 * data.schema.num_classes
        self.batches = math.ceil(model.num_samples / self.batch)

    def finish(self) -> FittedImgSyn:
        """Run every stage that is not complete.

        Raises:
            Interrupted: The run was asked to stop; what is complete is on disk.
        """
        teacher = self._teacher()
        self._pause("the teacher")
        chosen = self.public.pixels[self._selection(teacher)]
        facts = self._statistics(teacher, chosen)
        self._pause("the layer statistics")
        images = self._synthesis(teacher, chosen, facts)
        student = self._student(images, teacher)
        return FittedImgSyn(
            self.model, self.schema, images, teacher, student, self.normalization, facts, self.run.seed
        )

    def _teacher(self) -> nn.Module:
        run = dataclasses.replace(self.run, progress=lambda done, _, values: self._show(done, values))
        teacher = train_teacher(
            self._untrained(),
            self.model.teacher,
            self.data,
            self.normalization,
            run,
            sampling_rate=self.model.rate(self.schema),
            steps=self.steps,
        )
        return teacher.to(self.device)

    def _untrained(self) -> nn.Module:
        settings = self.model.teacher
        if self._load(self.run.checkpoints) is not None:  # its weights will be put over these
            settings = dataclasses.replace(settings, pretrain_epochs=0)
        public = (self.public, self.public_classes)
        return new_teacher(settings, self.schema, self.normalization, *public, self.run.random, self.device)

    def _selection(self, teacher: nn.Module) -> np.ndarray:
        """Positions of the public images to start from, in the order of the synthetic ones."""
        count = self.model.num_samples
        if self.model.public_selection == "random":
            return self.order[:count]

        def predict(positions: np.ndarray) -> np.ndarray:
            return self._logits(teacher, self.public.pixels[positions]).argmax(1)

        return balanced(self.order, count, predict, self.schema.num_classes)

    def _statistics(self, teacher: nn.Module, public: np.ndarray) -> dict[str, np.ndarray]:
        """Released moments and how they came about, by name; empty when they are left out."""
        if self.model.statistics.kind == "off":
            return {}
        folder = self.run.checkpoints / STATISTICS
        state = self._load(folder)
        if state is None:
            # Kept before it is used: a pass repeated with other rounding must not meet the same noise.
            facts = self._recorded(teacher) if self.model.not_dp else self._released(teacher, public)
            self._save(folder, 1, {name: torch.from_numpy(values) for name, values in facts.items()})
        else:
            facts = {name: tensor.numpy() for name, tensor in state["module"].items()}
        self._show(self.steps + 1, {})
        return facts

    def _released(self, teacher: nn.Module, public: np.ndarray) -> dict[str, np.ndarray]:
        settings, run = self.model.statistics, self.run
        layers = norm_layers(teacher, settings.layers)
        known = [*self._moments(teacher, layers, public[:REFERENCE_IMAGES])]
        reference = public_reference(np.concatenate(known), settings.radius)
        piece = run.access.piece(STATISTICS)
        count = count_coordinate(run.spec.relation, settings.count_weight)
        scale = piece.sensitivity * piece.noise_multiplier
        rate, times = settings.samples
        rows = self.schema.nominal_rows * rate * times
        error = standard_error(scale * math.sqrt(times), reference, count, rows)
        warn_of_noise(error)
        noisy = np.zeros(reference.center.size + 1)
        for step, pixels in enumerate(self._sampled(rate, times)):
            vector = release_vector(self._moments(teacher, layers, pixels), reference, count)
            noisy += run.access.gaussian(STATISTICS, vector, step=step, radius=reference.radius)
        found = released_statistics(noisy, reference, count, rows)
        run.log(self.steps + 1, {"statistics/standard_error": error}, "public")
        return {
            "mean": found.mean,
            "variance": found.variance,
            "public_center": reference.center,
            "public_scale": reference.scale,
            "radius": np.array([reference.radius]),
            "count_weight": np.array([count * reference.radius]),
            "noise_scale": np.array([scale]),
            "standard_error": np.array([error]),
        }

    def _sampled(self, rate: float, times: int) -> Iterator[np.ndarray]:
        """Yield private images that take part in each release of the statistics."""
        whole = TrainingData(lambda rows, _: (rows,), len(self.data.train), self.data.units)
        sampler = PoissonSampler(whole.unit_count(), rate, self.run.access.random, STATISTICS)
        expand = whole.rows_of()
        for step in range(times):
            yield self.data.train.pixels[expand(sampler.sample(step))]

    def _recorded(self, teacher: nn.Module) -> dict[str, np.ndarray]:
        """Moments as the original records them, without noise."""
        self.run.access.open_access(STATISTICS)
        images = self.data.train
        rate = min(UPSTREAM_BATCH / self.schema.nominal_rows, 1.0)
        sampler = PoissonSampler(len(images), rate, self.run.access.random, STATISTICS)
        batches = (images.pixels[sampler.sample(step)] for step in range(math.ceil(UPSTREAM_EPOCHS / rate)))
        layers = norm_layers(teacher, self.model.statistics.layers)
        found = recorded_statistics(teacher, layers, batches, self.normalization, self.device)
        return {"mean": found.mean, "variance": found.variance}

    def _moments(
        self, teacher: nn.Module, layers: list[nn.GroupNorm], pixels: np.ndarray
    ) -> Iterator[np.ndarray]:
        return moments_of(teacher, layers, pixels, self.normalization, self.device)

    def _synthesis(
        self, teacher: nn.Module, public: np.ndarray, facts: Mapping[str, np.ndarray]
    ) -> ReleasedImages:
        statistics = LayerStatistics(facts["mean"], facts["variance"]) if facts else None
        layers = norm_layers(teacher, self.model.statistics.layers) if facts else []
        target = Target(teacher, layers, statistics, self.normalization, self.device)
        targets = np.arange(len(public)) % self.schema.num_classes
        pixels, losses = np.empty_like(public), []
        for number in range(self.batches):
            rows = slice(number * self.batch, (number + 1) * self.batch)
            pixels[rows], history = self._batch(number, public[rows], targets[rows], target)
            losses.append(history)
            self._log_batch(number, history)
        self._write_losses(losses)
        logits = self._logits(teacher, pixels)
        floor = self._logits(teacher, public).argmax(1)
        return ReleasedImages(pixels, logits.argmax(1), targets, logits, public, floor).sorted()

    def _batch(
        self, number: int, public: np.ndarray, targets: np.ndarray, target: Target
    ) -> tuple[np.ndarray, np.ndarray]:
        """One batch of images, made now or by an earlier attempt."""
        folder = self.run.checkpoints / "synthesis" / f"{number:05d}"
        state = self._load(folder)
        if state is not None:
            return state["module"]["pixels"].numpy(), state["module"]["losses"].numpy()
        self._pause(f"batch {number} of {self.batches}")
        rng = self.run.random.generator("synthesis", number)
        pixels, losses = aligned(public, targets, target, self.model.synthesis, rng)
        if self.model.synthesis.steps:
            content = {"pixels": torch.from_numpy(pixels), "losses": torch.from_numpy(losses)}
            self._save(folder, self.model.synthesis.steps, content)
        return pixels, losses

    def _log_batch(self, number: int, history: np.ndarray) -> None:
        step = self.steps + 2 + number
        if len(history):
            values = dict(zip(TERMS, history[-1].tolist(), strict=True))
            kind = "private" if self.clean else "dp"
            self.run.log(step, {f"synthesis/{name}": value for name, value in values.items()}, kind)
        self._show(step, {})

    def _write_losses(self, losses: list[np.ndarray]) -> None:
        """Write the terms of the loss of every batch and step: functions of released values, if there are."""
        if self.run.samples is None or not self.model.synthesis.steps:
            return
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["batch", "step", *TERMS])
        for number, history in enumerate(losses):
            writer.writerows([number, step, *map(repr, row)] for step, row in enumerate(history.tolist()))
        folder = self.run.samples.parent / "private" if self.clean else self.run.samples
        folder.mkdir(parents=True, exist_ok=True, mode=0o700 if self.clean else 0o777)
        write_atomic(folder / CSV, text.getvalue().encode(), private=self.clean)

    def _student(self, images: ReleasedImages, teacher: nn.Module) -> nn.Module:
        folder = self.run.checkpoints / "student"
        net = new_student(self.model, self.schema, self.run.seed).to(self.device)
        optimizer, first = student_optimizer(net, self.model.student), 0
        state = self._load(folder)
        if state is not None:
            net.load_state_dict(state["module"])
            optimizer.load_state_dict(state["optimizer"])
            first = int(state["step"])
        every = self.model.student.epochs

        def on_epoch(done: int, student: nn.Module, trained: torch.optim.Optimizer) -> None:
            self._save(folder, done, student.state_dict(), trained.state_dict())
            self._show(self.steps + 1 + self.batches + done, {})
            if done < every:
                self._pause(f"epoch {done} of {every} of the student")

        student = train_student(
            net,
            Lessons(images.pixels, images.teacher_logits, self.normalization, teacher),
            self.model.student,
            self.run.random,
            optimizer=optimizer,
            first_epoch=first,
            device=self.device,
            on_epoch=on_epoch,
        )
        return student.cpu()

    def _logits(self, teacher: nn.Module, pixels: np.ndarray) -> np.ndarray:
        return logits_of(teacher, pixels, self.normalization, self.device)

    def _load(self, folder: Path) -> dict[str, Any] | None:
        """State of a stage, unless it was written with another noise key."""
        state = load_state(folder)
        return state if state is not None and state["key_id"] == self.run.access.random.key_id else None

    def _save(
        self, folder: Path, step: int, content: Mapping[str, Any], optimizer: Mapping[str, Any] | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        key_id = self.run.access.random.key_id
        state = {"step": step, "key_id": key_id, "module": dict(content), "optimizer": dict(optimizer or {})}
        save_state(folder, state)

    def _show(self, done: int, values: Mapping[str, float]) -> None:
        total = self.steps + 1 + self.batches + self.model.student.epochs
        self.run.progress(done, total, values)

    def _pause(self, after: str) -> None:
        if self.run.stopping():
            raise Interrupted(f"stopped after {after}; the same command continues the run.")
