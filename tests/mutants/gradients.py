"""Mutants of clipping, norms and the sum of gradients."""

from __future__ import annotations

import torch

from dpforge.errors import PrivacyError
from dpforge.privacy import dpsgd, engines, norms
from dpforge.privacy.batches import microbatches
from dpforge.privacy.dpsgd import DPGradient
from dpforge.privacy.engines import ClippedSum, GhostEngine

from .library import IN_ONE, mutant
from .planter import Planter

ENGINES = "privacy/test_engines.py"
TEXTBOOK = "privacy/test_dpsgd.py::test_training_is_the_textbook_algorithm"


@mutant("rule 4: clip what exists; first DPWGAN code", IN_ONE, ENGINES)
def no_clip(p: Planter) -> None:
    """Gradients are not clipped."""
    p.swap(engines, "clip_weights", lambda _: lambda squared, c: torch.ones_like(squared))


@mutant("planted bug: clip per batch", IN_ONE, ENGINES)
def clip_by_the_mean_norm_of_the_batch(p: Planter) -> None:
    """One factor for all rows, from the mean norm of the batch."""

    def weights(squared, c):
        return torch.full_like(squared, float((c / squared.sqrt().mean()).clamp(max=1)))

    p.swap(engines, "clip_weights", lambda _: weights)


@mutant(
    "planted bug: per-layer clip accounted as flat",
    f"{ENGINES}::test_one_record_moves_the_sum_by_at_most_the_clip",
    IN_ONE,
)
def every_layer_clipped_alone(p: Planter) -> None:
    """Each layer is clipped to C by its own norm; the plan says C for all together."""

    def clip(self, losses, max_grad_norm):
        found = {}
        for _, layer in self._layers:
            calls = self._captured.get(id(layer), [])
            if not calls:
                continue
            weights = engines.clip_weights(engines._squared_norm(layer, calls), max_grad_norm)
            for name, gradient in engines._weighted(layer, calls, weights, weights == 0).items():
                found[id(getattr(layer, name))] = gradient
        return [found.get(id(q), torch.zeros_like(q)) for q in self._parameters]

    p.put(GhostEngine, "_clip", clip)


@mutant("DP-MAF code: gradient sampler without the mask", IN_ONE, ENGINES)
def mask_left_out_of_the_norm(p: Planter) -> None:
    """Norms of masked layers are taken a quarter of the squares of the unmasked ones."""

    def squared_norm(self, layer, a, g):
        return g.square().sum(1) * a.square().sum(1) / 4 + g.square().sum(1) / 4

    p.put(norms.LinearRule, "squared_norm", squared_norm)


@mutant("frameworks that clip the mean of a microbatch", TEXTBOOK, "privacy/test_dpsgd.py")
def mean_of_a_microbatch_clipped(p: Planter) -> None:
    """A microbatch counts as one example: its mean gradient is clipped once and weighs as its rows."""

    def clipped_sum(self, module, tensors):
        total, losses = [torch.zeros_like(q) for q in self._parameters], []
        for part in microbatches(tensors, self.microbatch or 3):
            one = self.engine.clipped_sum(module.per_example_loss, part, 1e9)
            rows = one.losses.numel()
            norm = torch.sqrt(sum((g / rows).square().sum() for g in one.gradients))
            for sum_, g in zip(total, one.gradients, strict=True):
                sum_ += g * min(1.0, self.clip / float(norm))
            losses.append(one.losses)
        return ClippedSum(total, torch.cat(losses) if losses else torch.zeros(0))

    p.put(DPGradient, "clipped_sum", clipped_sum)


@mutant("Opacus' batch memory manager under Lightning carries a sum over epoch ends", TEXTBOOK, IN_ONE)
def sum_of_the_last_step_carried_over(p: Planter) -> None:
    """Clipped gradients of one step are still in the sum of the next."""

    def make(clipped_sum):
        def carried(self, module, tensors):
            found = clipped_sum(self, module, tensors)
            before = getattr(self, "_before", None)
            self._before = [g.clone() for g in found.gradients]
            if before is not None:
                for g, old in zip(found.gradients, before, strict=True):
                    g.add_(old)
            return found

        return carried

    p.wrap(DPGradient, "clipped_sum", make)


@mutant("rule 4: non-finite gradients become 0", ENGINES, "privacy/test_dpwgan_privacy.py")
def poison_is_kept(p: Planter) -> None:
    """A gradient that is not finite keeps its weight, so one record can turn the sum into NaN."""
    p.swap(engines, "clip_weights", lambda _: lambda squared, c: (c / squared.sqrt()).clamp(max=1.0))


@mutant(
    "rule 4: no batch norm; PrivSynth's critic",
    f"{ENGINES}::test_layers_that_mix_examples_or_have_no_rule_are_refused",
)
def batch_norm_is_let_in(p: Planter) -> None:
    """Layers that mix the examples of a batch are not refused."""
    p.swap(norms, "check_layer", lambda _: lambda layer: None)


@mutant("tied weights overwritten by Opacus' hooks", f"{ENGINES}::test_tied_weights_are_refused")
def tied_weights_are_let_in(p: Planter) -> None:
    """Two layers may share a parameter; the gradient of the second replaces that of the first."""

    def make(original):
        def layers(net):
            try:
                return original(net)
            except PrivacyError as error:
                if "shares a parameter" not in str(error):
                    raise
                return [(n, m) for n, m in net.named_modules() if list(m.parameters(recurse=False))]

        return layers

    p.swap(norms, "parameter_layers", make)


@mutant(
    "Opacus: a module called twice",
    f"{ENGINES}::test_a_layer_called_twice_is_clipped_as_one",
    "privacy/test_dpwgan_privacy.py",
)
def calls_of_a_layer_clipped_apart(p: Planter) -> None:
    """The norm of a layer that is called twice is that of its first call."""
    p.swap(
        engines,
        "_squared_norm",
        lambda _: lambda layer, calls: norms.rule_for(layer).squared_norm(layer, *calls[0]),
    )


@mutant("ghost norms of embeddings", ENGINES)
def repeated_tokens_counted_apart(p: Planter) -> None:
    """The norm of an embedding's gradient forgets that equal tokens add up in one row."""
    p.put(norms.EmbeddingRule, "_token_norm", lambda self, index, g: g.square().sum((1, 2)))


@mutant(
    "float32 Gram products cancel",
    "privacy/test_planted_bugs.py::test_norms_by_products_of_positions_keep_their_digits_where_terms_cancel",
)
def gram_products_in_float32(p: Planter) -> None:
    """Norms by products of positions are taken in float32."""

    def gram(a, g):
        return ((a @ a.mT) * (g @ g.mT)).flatten(1).sum(1).clamp_min(0)

    p.swap(norms, "_gram", lambda _: gram)


@mutant("rule 4: constant normaliser", "privacy/test_dpsgd.py")
def normaliser_is_the_size_of_the_batch(p: Planter) -> None:
    """The noisy sum is divided by the number of rows that were drawn."""

    def make(call):
        def divided(self, module, batch):
            rows, public = max(len(batch.tensors[0]), 1), self.normalizer
            self.normalizer = float(rows)
            try:
                return call(self, module, batch)
            finally:
                self.normalizer = public

        return divided

    p.wrap(DPGradient, "__call__", make)


@mutant(
    "rule 4: an empty batch is a noise-only step",
    "privacy/test_dpsgd.py::test_an_empty_batch_is_a_noise_only_step",
)
def empty_batches_are_skipped(p: Planter) -> None:
    """A step without rows takes no noise and no step, so a record shows by its presence."""

    def make(call):
        def skipping(self, module, batch):
            if len(batch.tensors[0]):
                return call(self, module, batch)
            for q in self._parameters:
                q.grad = torch.zeros_like(q)
            return 0.0

        return skipping

    p.wrap(DPGradient, "__call__", make)


@mutant(
    "entries that get a gradient and no noise",
    "contract/test_generators.py::test_entries_under_a_mask_get_neither_gradient_nor_noise",
    TEXTBOOK,
)
def some_entries_get_no_noise(p: Planter) -> None:
    """The last entry of each parameter is released without noise."""

    def make(kept):
        def fewer(net):
            found = zip(net.parameters(), kept(net), strict=True)
            return [(torch.arange(q.numel()) if k is None else k)[:-1] for q, k in found]

        return fewer

    p.swap(norms, "kept_entries", make)


@mutant(
    "rule 1: user level is one clip a user",
    "privacy/test_dpsgd.py::test_rows_of_one_user_share_one_clip",
    "contract/test_generators.py::test_removing_a_user_with_all_rows_moves_each_release_by_at_most_its_sensitivity",
)
def each_row_of_a_user_clipped_to_the_whole_norm(p: Planter) -> None:
    """Rows of a user are each clipped to C."""

    def make(init):
        def started(self, *args, rows_per_unit=1, **kw):
            init(self, *args, rows_per_unit=1, **kw)

        return started

    p.wrap(dpsgd.DPSGDCallback, "__init__", make)


@mutant(
    "lightning: several epochs replay a step's noise",
    "privacy/test_dpsgd.py::test_a_second_epoch_is_refused",
    "privacy/test_dpsgd.py::test_trainer_options_that_break_the_guarantee_are_refused",
)
def trainer_options_unchecked(p: Planter) -> None:
    """Any option of the trainer is accepted: second epochs, accumulation, clipping of the mean."""
    p.swap(dpsgd, "check_trainer", lambda _: lambda trainer: None)


@mutant(
    "parameters outside the private network",
    "privacy/test_dpsgd.py::test_parameters_trained_outside_the_private_network_are_refused",
)
def parameters_outside_trained_without_noise(p: Planter) -> None:
    """Parameters beside the private network may learn from private rows."""
    p.swap(dpsgd, "_check_only_private", lambda _: lambda module: None)
