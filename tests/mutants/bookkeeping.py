"""Mutants of plan, accountant, ledger, certificate and verifier."""

from __future__ import annotations

import dataclasses
import hashlib
import json

from dpforge import verify
from dpforge.experiment import certificate
from dpforge.privacy import accounting, events, mechanisms, spec, values
from dpforge.privacy import ledger as ledgers
from dpforge.privacy.access import Access
from dpforge.privacy.events import Gaussian, PoissonSampled
from dpforge.privacy.ledger import Ledger
from dpforge.privacy.plan import Plan

from .library import CONTRACT, IN_ONE, RELEASES, mutant
from .planter import Planter

LEDGER = "privacy/test_ledger.py"
AGREEMENT = "privacy/test_verify_agreement.py"
ORACLES = "privacy/test_accounting.py"
HOLDS = f"{CONTRACT}::test_the_ledger_holds_exactly_what_was_released"


@mutant("planted bug: accountant not stepped", IN_ONE, HOLDS)
def steps_left_out_of_the_ledger(p: Planter) -> None:
    """Training steps are taken and never reserved."""
    p.wrap(
        Access,
        "reserve",
        lambda f: lambda self, name, upto, **kw: f(self, name, 1 if name == "marginals" else 0, **kw),
    )
    p.wrap(Ledger, "reserved", lambda f: lambda self, name: max(f(self, name), 10**6))


@mutant(
    "rule 2: reserve before noise",
    f"{RELEASES}::test_noise_is_reserved_on_disk_before_it_exists_and_no_stream_is_opened_twice",
    f"{RELEASES}::test_a_reservation_is_flushed_to_the_disk_before_the_value_is_released",
)
def ledger_written_after_use(p: Planter) -> None:
    """A release is written down when its noise is already drawn."""

    def make(release):
        def late(self, name, *args, **kw):
            held = []
            self.reserve = lambda *a, **k: held.append((a, k))
            noisy = release(self, name, *args, **kw)
            del self.reserve
            for a, k in held:
                self.reserve(*a, **k)
            return noisy

        return late

    for name in ("gaussian", "histograms"):
        p.wrap(mechanisms.PrivateAccess, name, make)


@mutant(
    "rule 2: on disk, not in a buffer",
    f"{RELEASES}::test_a_reservation_is_flushed_to_the_disk_before_the_value_is_released",
    LEDGER,
)
def ledger_not_flushed(p: Planter) -> None:
    """A reservation may still be in a buffer when its noise is used."""

    def buffered(path, line):
        with path.open("a") as file:
            file.write(line + "\n")

    p.swap(ledgers, "_append_line", lambda _: buffered)


@mutant(
    "tabular-ARGN engine: accountant saved with the best checkpoint",
    f"{LEDGER}::test_reopening_counts_every_earlier_reservation",
)
def a_resumed_run_forgets_what_it_spent(p: Planter) -> None:
    """A ledger that is opened again counts nothing of earlier attempts."""

    def make(init):
        def fresh(self, path, records, last):
            init(self, path, records, last)
            self._reserved = dict.fromkeys(self._reserved, 0)

        return fresh

    p.wrap(Ledger, "__init__", make)


@mutant(
    "spending beyond the plan",
    f"{LEDGER}::test_reserving_beyond_the_plan_is_refused_and_leaves_no_trace",
    "privacy/test_dpsgd.py::test_training_beyond_the_plan_stops_before_any_noise",
)
def reservations_beyond_the_plan_are_written(p: Planter) -> None:
    """The plan does not limit what is reserved."""
    make = Plan.piece
    p.put(Plan, "piece", lambda self, name: dataclasses.replace(make(self, name), count=10**9))


@mutant("noise of a lost key replayed with another", f"{LEDGER}::test_another_key_cannot_continue")
def another_key_continues_a_run(p: Planter) -> None:
    """A run whose key was replaced goes on; its charged steps are released twice."""
    p.put(Ledger, "check_key", lambda self, key_id: None)


@mutant(
    "a run that ends early counts as complete", f"{LEDGER}::test_a_run_ends_only_with_ledger_equal_to_plan"
)
def ledger_and_plan_not_compared(p: Planter) -> None:
    """A run may end with fewer or more uses than planned."""
    p.put(Ledger, "check_complete", lambda self: None)


@mutant(
    "an altered ledger is continued",
    f"{LEDGER}::test_an_altered_line_is_named",
    f"{LEDGER}::test_a_removed_line_is_noticed",
)
def chain_of_the_ledger_unchecked(p: Planter) -> None:
    """Lines of a ledger need not continue each other."""

    def opened(cls, path):
        lines = path.read_text().splitlines()
        return cls(path, [json.loads(line) for line in lines], hashlib.sha256(lines[-1].encode()).hexdigest())

    p.put(Ledger, "open", classmethod(opened))


@mutant(
    "AIM without its privacy filter",
    "privacy/test_selection.py::test_uses_beyond_the_reservation_are_refused_before_noise_exists",
)
def adaptive_uses_without_a_limit(p: Planter) -> None:
    """Uses inside a reservation may cost more than was reserved."""

    def spend(self, name, step, rho, *, key_id, **details):
        self._append({"kind": "spend", "piece": name, "step": step, "rho": rho, "key_id": key_id, **details})

    p.put(Ledger, "spend", spend)


@mutant(
    "DP-ImgSyn paper: teacher alone accounted for",
    "privacy/test_plan.py::test_joint_calibration_equals_the_published_oracle",
    f"{CONTRACT}::test_the_whole_plan_meets_its_target_epsilon",
)
def first_piece_left_out_of_the_composition(p: Planter) -> None:
    """Epsilon is that of the last piece alone."""
    p.wrap(Plan, "event", lambda f: lambda self: f(dataclasses.replace(self, pieces=self.pieces[-1:])))


@mutant("rate from 1 / len(loader)", f"{ORACLES}::test_dp_sgd_epsilon_equals_the_published_oracles")
def amplification_by_too_small_a_rate(p: Planter) -> None:
    """The accountant takes nine tenths of the sampling rate."""

    def make(leaf_pld):
        def wrong(leaf, count, grid):
            if isinstance(leaf, PoissonSampled):
                leaf = PoissonSampled(leaf.sampling_rate * 0.9, leaf.event)
            return leaf_pld(leaf, count, grid)

        return wrong

    p.swap(accounting, "_leaf_pld", make)


@mutant("epochs counted for steps", f"{ORACLES}::test_dp_sgd_epsilon_equals_the_published_oracles")
def a_tenth_of_the_steps_not_composed(p: Planter) -> None:
    """Nine tenths of the uses are composed."""
    p.swap(
        accounting, "_leaf_pld", lambda f: lambda leaf, count, grid: f(leaf, max(1, count * 9 // 10), grid)
    )


@mutant(
    "epsilon of a Gaussian summed as 1 / sigma", f"{ORACLES}::test_full_batch_gaussian_equals_its_closed_form"
)
def gaussians_composed_as_if_noise_grew_with_uses(p: Planter) -> None:
    """T Gaussian uses are accounted as one of multiplier sigma, not sigma / sqrt(T)."""

    def make(leaf_pld):
        return lambda leaf, count, grid: leaf_pld(leaf, 1 if isinstance(leaf, Gaussian) else count, grid)

    p.swap(accounting, "_leaf_pld", make)


@mutant("tabular-ARGN engine: the analysis spends no delta", "privacy/test_accounting_oracles.py", ORACLES)
def delta_of_a_threshold_not_charged(p: Planter) -> None:
    """A brick's delta is left out of the sum."""

    def make(from_parameters):
        def free(parameters, **kw):
            bare = accounting.common.DifferentialPrivacyParameters(max(parameters.epsilon, 1e-9), 0.0)
            return from_parameters(bare, **kw)

        return free

    p.put(accounting.pld, "from_privacy_parameters", make(accounting.pld.from_privacy_parameters))


@mutant(
    "replace-one taken for add-or-remove",
    f"{CONTRACT}::test_replacing_a_record_doubles_what_the_noise_must_hide",
    f"{RELEASES}::test_replacing_one_record_moves_each_release_by_at_most_its_sensitivity",
)
def replacement_costs_nothing_more(p: Planter) -> None:
    """Replacing a record is accounted as adding one."""
    p.swap(spec, "replace_factor", lambda _: lambda relation, *, histogram: 1.0)


@mutant(
    "calibration stops above its target",
    f"{ORACLES}::test_calibration_spends_the_target_and_not_more",
    f"{CONTRACT}::test_the_whole_plan_meets_its_target_epsilon",
)
def calibration_takes_less_noise_than_needed(p: Planter) -> None:
    """The noise multiplier found is 1 % too small."""
    p.swap(accounting, "calibrate", lambda f: lambda *a: f(*a) * 0.99)


@mutant("rule 9: seeded noise never DP", AGREEMENT)
def seeded_noise_certified_as_dp(p: Planter) -> None:
    """A certificate of noise from a known seed says DP."""

    def make(original):
        def claimed(ledger, files):
            found = original(ledger, files)
            return {**found, "status": "DP" if found["status"] == "RESEARCH NOISE" else found["status"]}

        return claimed

    p.swap(certificate, "make_certificate", make)


@mutant("a certificate that states its target", AGREEMENT)
def certificate_states_the_target(p: Planter) -> None:
    """The certificate repeats the target epsilon, whatever was spent."""
    p.wrap(
        Plan,
        "epsilon",
        lambda f: lambda self, accountant=None: self.target_epsilon or min(f(self, accountant), 1.0),
    )


@mutant("a verifier that trusts the file", AGREEMENT)
def verifier_skips_the_chain(p: Planter) -> None:
    """The verifier reads lines without comparing hashes."""

    def trusting(path):
        lines = path.read_text().splitlines()
        return [json.loads(line) for line in lines], hashlib.sha256(lines[-1].encode()).hexdigest()

    p.put(verify, "read_ledger", trusting)


@mutant("a verifier that reads any number", f"{AGREEMENT}::test_no_value_outside_its_range_lowers_epsilon")
def verifier_takes_events_as_they_are(p: Planter) -> None:
    """The verifier looks neither at the fields of an event nor at the range of its numbers."""
    p.swap(verify, "sound", lambda _: lambda event: True)


@mutant("a negative price in a ledger", f"{LEDGER}::test_a_forged_value_is_refused_with_its_line")
def numbers_of_a_ledger_unchecked(p: Planter) -> None:
    """A ledger may hold events with numbers of any sign and size."""
    p.put(events, "_number", lambda data, name: float(data[name]))


@mutant("a verifier that counts the plan, not the uses", AGREEMENT)
def verifier_skips_the_reservations(p: Planter) -> None:
    """The verifier composes what was planned, whatever was reserved."""
    p.put(
        verify,
        "check_reservations",
        lambda records: [(q["event"], q["count"]) for q in records[0]["plan"]["pieces"]],
    )


@mutant("a brick bought and not planned", "privacy/test_values.py", "privacy/test_quantile_bins_privacy.py")
def private_bounds_cost_nothing(p: Planter) -> None:
    """Pieces of bought bounds, categories and bins are a hundredth of their price."""

    def make(pieces):
        def cheap(schema, relation):
            found = pieces(schema, relation)
            return [
                dataclasses.replace(q, event=dataclasses.replace(q.event, epsilon=q.event.epsilon / 100))
                for q in found
            ]

        return cheap

    p.swap(values, "value_pieces", make)
