"""Paired, clustered statistics: intervals, tests, effect sizes and what a sample could have shown.

Functions that take one column of differences wrap those that take cluster sums of many columns at
once. No data gives None, never 0. Every estimator is described in docs/statistics.md.
"""

from quantxai.statistics.bootstrap import (
    MIN_BOOTSTRAP_CLUSTERS,
    Bootstrap,
    Interval,
    bootstrap_intervals,
    clopper_pearson,
    cluster_bootstrap,
)
from quantxai.statistics.clusters import cluster_sums, standard_error
from quantxai.statistics.effects import cliffs_delta, minimum_detectable, n_to_resolve, paired_effect_size
from quantxai.statistics.testing import (
    adjusted,
    concordance,
    equivalence_tests,
    mcnemar_exact,
    sign_flip_permutation,
    sign_flip_tests,
    signed_ranks,
)

__all__ = [
    "MIN_BOOTSTRAP_CLUSTERS",
    "Bootstrap",
    "Interval",
    "adjusted",
    "bootstrap_intervals",
    "cliffs_delta",
    "clopper_pearson",
    "cluster_bootstrap",
    "cluster_sums",
    "concordance",
    "equivalence_tests",
    "mcnemar_exact",
    "minimum_detectable",
    "n_to_resolve",
    "paired_effect_size",
    "sign_flip_permutation",
    "sign_flip_tests",
    "signed_ranks",
    "standard_error",
]
