"""The analysis of ratings: pure functions of the tidy table of userstudy/ratings.py.

Estimators and what simulations say of them are described in docs/user-study.md.
"""

from userstudy.analysis.results import (
    Agreement,
    Descriptive,
    Excluded,
    Exclusions,
    IntraRater,
    MetricCorrelation,
    OrderEffect,
    RatingFinding,
    StudyAnalysis,
)
from userstudy.analysis.whole import analyze, find

__all__ = [
    "Agreement",
    "Descriptive",
    "Excluded",
    "Exclusions",
    "IntraRater",
    "MetricCorrelation",
    "OrderEffect",
    "RatingFinding",
    "StudyAnalysis",
    "analyze",
    "find",
]
