"""Names of segments: what the rules say, and that no two are the same."""

from __future__ import annotations

import numpy as np
import pytest

from training import segments
from training.table import FEATURES, UNKNOWN, Table

ORDINARY = {
    "recency_days": 3.0,
    "visit_days_7": 1.5,
    "visit_days_28": 6.0,
    "visit_days_84": 17.0,
    "log_spend_28": 5.3,
    "log_spend_84": 6.4,
    "gap_ewma": 5.5,
    "overdue": 0.7,
    "departments_28": 7.0,
    "discount_share_84": 0.15,
}


def centroid(**features: float) -> np.ndarray:
    values = {**ORDINARY, **features}
    return np.array([values[name] for name in FEATURES])


FREQUENT = centroid(recency_days=1.1, visit_days_28=13.4, visit_days_84=37.8, gap_ewma=2.2)
WEEKLY = centroid()
OCCASIONAL = centroid(recency_days=8.9, visit_days_28=2.4, visit_days_84=7.4, gap_ewma=13.2)
LAPSING = centroid(recency_days=31.0, visit_days_28=0.5, visit_days_84=2.7, gap_ewma=32.0)
LAPSED = centroid(recency_days=72.0, visit_days_28=0.0, visit_days_84=1.6, gap_ewma=17.0)
SCALE = np.ones(len(FEATURES))


@pytest.mark.parametrize(
    ("typical", "name"),
    [
        (FREQUENT, "frequent regulars"),
        (WEEKLY, "weekly regulars"),
        (OCCASIONAL, "occasional shoppers"),
        (centroid(visit_days_84=2.0, visit_days_28=1.2), "rare shoppers"),
        (LAPSING, "lapsing"),
        (centroid(visit_days_28=0.9), "lapsing"),
        (LAPSED, "lapsed"),
    ],
)
def test_a_name_says_what_is_typical(typical: np.ndarray, name: str) -> None:
    assert segments.names(np.array([typical]), SCALE) == [name]


def test_order_is_by_activity_whatever_the_clusters_numbers() -> None:
    shuffled = np.array([LAPSED, WEEKLY, LAPSING, FREQUENT, OCCASIONAL])
    ordered = shuffled[segments.order(shuffled)]
    assert segments.names(ordered, SCALE) == [
        "frequent regulars",
        "weekly regulars",
        "occasional shoppers",
        "lapsing",
        "lapsed",
    ]


@pytest.mark.parametrize(
    ("differs", "names"),
    [
        ({"log_spend_84": 7.4}, ["low-spending weekly regulars", "high-spending weekly regulars"]),
        ({"discount_share_84": 0.9}, ["full-price weekly regulars", "bargain-seeking weekly regulars"]),
        ({"departments_28": 3.0}, ["all-round weekly regulars", "few-aisle weekly regulars"]),
    ],
)
def test_two_of_a_kind_are_told_apart_by_what_differs(differs: dict[str, float], names: list[str]) -> None:
    assert segments.names(np.array([WEEKLY, centroid(**differs)]), SCALE) == names


def test_many_of_a_kind_are_numbered_by_spend() -> None:
    three = np.array([centroid(log_spend_84=5.0), centroid(log_spend_84=7.0), centroid(log_spend_84=6.0), LAPSED])
    assert segments.names(three, SCALE) == ["weekly regulars 3", "weekly regulars 1", "weekly regulars 2", "lapsed"]
    assert len(set(segments.names(np.array([WEEKLY] * 4), SCALE))) == 4


def group(features: np.ndarray, purchase: list[int]) -> Table:
    count = len(purchase)
    return Table(
        customer=np.array([str(i) for i in range(count)], dtype=object),
        day=np.full(count, 85, dtype=np.int32),
        features=np.tile(features, (count, 1)),
        sequence=np.zeros((count, 10, 5)),
        labels={
            "purchase_7d": np.array(purchase, dtype=np.int8),
            "churn_28d": np.full(count, UNKNOWN, dtype=np.int8),
        },
    )


def test_a_description_has_the_typical_figures() -> None:
    rows = group(centroid(log_spend_84=np.log1p(613.0)), [1, 1, 1, 0, UNKNOWN])
    assert segments.describe(WEEKLY, rows, 0.321) == (
        "Come once or twice a week. 32% of customers; last seen 3 days ago, 17 shopping days in twelve weeks, "
        "usually 6 days apart, 610 spent in that time. 75% buy within a week."
    )


def test_a_description_of_those_who_are_gone() -> None:
    rows = group(centroid(recency_days=84.0), [0, 0, 0, 1])
    assert segments.describe(LAPSED, rows, 0.066) == (
        "Have not come for two months or more. 7% of customers; no purchase in the last twelve weeks. "
        "25% buy within a week."
    )
