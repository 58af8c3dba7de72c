"""What the families of scores mean, in words a reader without the papers can use."""

from __future__ import annotations

from typing import NamedTuple


class Family(NamedTuple):
    """Scores that are read together: those whose name begins with one of ``prefixes``."""

    title: str
    prefixes: tuple[str, ...]
    meaning: str


FAMILIES = (
    Family(
        "Learning from the images",
        (
            "utility/accuracy_",
            "utility/balanced_accuracy_",
            "utility/macro_f1_",
            "utility/recall_",
            "utility/trtr_",
            "utility/trts_",
        ),
        "A classifier is trained on synthetic images and tested on real ones (no prefix), trained and tested"
        " on real ones (trtr, the ceiling), or trained on real and tested on synthetic ones (trts: do the"
        " labels fit the images). The floor is the share of the largest class.",
    ),
    Family(
        "Distance of image features",
        (
            "fidelity/frechet",
            "fidelity/class_frechet",
            "fidelity/kernel_distance",
            "fidelity/inception_score",
        ),
        "Distances between real and synthetic images in the features of a named extractor; 0 is best. They"
        " compare only at equal extractor, preprocessing and number of images (metrics.json states them)."
        " The floor is real images whose pixels are shuffled independently.",
    ),
    Family(
        "Precision and recall of images",
        ("fidelity/precision_", "fidelity/recall_", "fidelity/density_", "fidelity/coverage_"),
        "Precision and density: do synthetic images lie where real ones do. Recall and coverage: are real"
        " images reached by synthetic ones. 1 is best.",
    ),
    Family(
        "Classes and variety",
        (
            "fidelity/class_distance",
            "fidelity/predicted_entropy",
            "fidelity/mode_coverage",
            "fidelity/distinct_images",
            "fidelity/near_duplicates",
        ),
        "Whether every class occurs (by label, and as a classifier trained on real images sees it), and"
        " whether synthetic images differ from each other.",
    ),
    Family(
        "Learning from the table",
        ("utility/",),
        "A learner is trained on synthetic rows (TSTR) or real rows (TRTR) and tested on held-out real rows."
        " The floor is training on real columns shuffled independently, about chance; the ceiling is TRTR."
        " A score near the floor means that the link to the target was lost, however good the columns look.",
    ),
    Family(
        "Distance of marginals",
        ("fidelity/tvd_",),
        "Total variation distance of the tables over all single columns, pairs and triples: the share of"
        " rows that would have to change cells; 0 is best. Shuffled columns keep every single column exact,"
        " so their 1-way floor is 0; only 2-way and 3-way show whether columns still depend on each other.",
    ),
    Family(
        "Accuracy",
        ("fidelity/accuracy_",),
        "1 − TVD with bins fitted on the real rows; 1 is best. The scale begins high: shuffled columns,"
        " which hold no relation at all, often reach .9. Read the normalised score, not the percentage.",
    ),
    Family(
        "Association between columns",
        ("fidelity/correlation_",),
        "Mean absolute difference of the association of column pairs (Pearson, Cramér's V or correlation"
        " ratio, by kind); 0 is best. The floor is what remains when no column depends on another.",
    ),
    Family(
        "Can a classifier tell the tables apart?",
        ("fidelity/c2st_",),
        "AUROC of boosted trees that separate real from synthetic rows: .5 cannot, 1 always can. It notices"
        " one wrong detail as readily as many, so the floor (shuffled columns) shows how strict it is here.",
    ),
    Family(
        "Rank agreement, Wasserstein and propensity",
        ("fidelity/sra_", "fidelity/wasserstein_", "fidelity/pmse_"),
        "SRA: do learners rank alike on real and synthetic rows (.5 chance, 1 best). Wasserstein and pMSE"
        " ratios compare with what two samples of one table give: about 1 is right, above is wrong. Main"
        " effects and single columns cannot see lost dependence: there shuffled columns look perfect.",
    ),
    Family(
        "Coverage",
        ("fidelity/range_coverage", "fidelity/category_"),
        "How much of the real range and of the real categories occurs in the synthetic table; 1 is best."
        " Shuffled columns reach 1, so this can only expose what is absent.",
    ),
    Family(
        "Likelihood",
        ("fidelity/log_likelihood",),
        "Mean log-density of held-out rows under the model, in nats; higher is better. It compares only"
        " models with the same encoding.",
    ),
    Family(
        "Validity",
        ("validity/",),
        "Cells and rows that break the public schema (0 is right), and rows that occur twice.",
    ),
    Family(
        "Hints of copying",
        ("hint/",),
        "Distances from synthetic rows to the nearest training row. They may reveal copying; a harmless value"
        " is no evidence of privacy. The guarantee is ε, above.",
    ),
    Family(
        "Membership attacks",
        ("attack/",),
        "How well an attacker tells training rows from others: AUC .5 is guessing. The lower bound on ε is"
        " what the attack proves; a bound below the stated ε is no violation, and no proof of privacy.",
    ),
)

OTHER = Family("Other scores", ("",), "Scores without a family of their own.")

LEGACY_PAIRS = {
    "legacy/sra": ("fidelity/sra_tsts",),
    "legacy/wasserstein_ratio": ("fidelity/wasserstein_ratio_1d", "fidelity/wasserstein_ratio_sliced"),
    "legacy/pmse_ratio": ("fidelity/pmse_ratio_main", "fidelity/pmse_ratio_pairwise"),
}
LEGACY_TEXT = (
    "The legacy scores follow the definitions behind published DP-MAF tables, so that those numbers can be"
    " reproduced. They rank nothing. Each table is standardised by its own mean and deviation first, which"
    " hides every error of location and scale. The legacy Wasserstein ratio never looks at the real split: it"
    " reports a null distance that real data, noise and any model share. Legacy pMSE sees main effects"
    " only, so shuffled columns score like the model.",
    "The corrected scores measure both tables on the scale of the real one. Read those, and compare each with"
    " its floor and ceiling.",
)


def family_of(name: str) -> Family:
    """The family of a score; :data:`OTHER` if it has none."""
    found = [family for family in FAMILIES if name.startswith(family.prefixes)]
    return found[0] if found else OTHER
