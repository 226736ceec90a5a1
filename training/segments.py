"""Names for groups of customers that a person in marketing understands at once.

A cluster algorithm numbers its groups as it likes. Here they are put in order, and named by
rules from what is typical of them, so that training again names the same group the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.table import FEATURES, UNKNOWN, Table

# The first rule that holds names the group: a name, what it asks of the typical customer (days
# are days, visits are shopping days), and what it means.
RULES = (
    ("lapsed", lambda f: f["recency_days"] >= 56, "Have not come for two months or more."),
    (
        "lapsing",
        lambda f: f["recency_days"] >= 21 or f["visit_days_28"] < 1,
        "Have not come for some weeks; many are about to be lost.",
    ),
    ("frequent regulars", lambda f: f["visit_days_84"] >= 24, "Come twice a week or more."),
    ("weekly regulars", lambda f: f["visit_days_84"] >= 12, "Come once or twice a week."),
    ("occasional shoppers", lambda f: f["visit_days_84"] >= 4, "Come a few times a month at most."),
    ("rare shoppers", lambda f: True, "Come now and then."),
)

# What tells two groups of one name apart: the feature in which they differ most, of these.
CONTRASTS = (
    ("log_spend_84", "high-spending", "low-spending"),
    ("discount_share_84", "bargain-seeking", "full-price"),
    ("departments_28", "all-round", "few-aisle"),
)


@dataclass(frozen=True)
class Segment:
    """One group: its number in the model's answers, its name, and a sentence or two about it."""

    id: int
    name: str
    description: str


def order(centroids: NDArray[np.floating]) -> NDArray[np.intp]:
    """Indices that put centroids [k, 10] (in the features' units) in order, the most active first."""
    visits = centroids[:, FEATURES.index("visit_days_84")]
    recency = centroids[:, FEATURES.index("recency_days")]
    return np.lexsort((recency, -visits))


def names(centroids: NDArray[np.floating], scale: NDArray[np.floating]) -> list[str]:
    """A name for each centroid, no two the same.

    Args:
        centroids: [k, 10], in the features' units.
        scale: the features' standard deviations, [10], to compare differences by.
    """
    plain = [_rule(c)[0] for c in centroids]
    unique = list(plain)
    for name in set(plain):
        group = [i for i, other in enumerate(plain) if other == name]
        if len(group) == 2:
            unique[group[0]], unique[group[1]] = _apart(name, centroids[group[0]], centroids[group[1]], scale)
        elif len(group) > 2:
            spend = FEATURES.index("log_spend_84")
            by_spend = sorted(group, key=lambda i: (-centroids[i, spend], i))
            for place, i in enumerate(by_spend, start=1):
                unique[i] = f"{name} {place}"
    return unique


def _apart(
    name: str, one: NDArray[np.floating], other: NDArray[np.floating], scale: NDArray[np.floating]
) -> tuple[str, str]:
    def difference(contrast: tuple[str, str, str]) -> float:
        i = FEATURES.index(contrast[0])
        return float(abs(one[i] - other[i]) / max(scale[i], 1e-9))

    feature, high, low = max(CONTRASTS, key=difference)
    i = FEATURES.index(feature)
    return (f"{high} {name}", f"{low} {name}") if one[i] >= other[i] else (f"{low} {name}", f"{high} {name}")


def describe(centroid: NDArray[np.floating], rows: Table, share: float) -> str:
    """What a group is and what is typical of it, in words; figures are medians.

    Args:
        centroid: the group's, [10], in the features' units.
        rows: its snapshots, at least one.
        share: of all customers, from 0 to 1.
    """
    typical = _by_name(np.median(rows.features, axis=0))
    parts = [_rule(centroid)[2], f"{share:.0%} of customers;"]
    if typical["recency_days"] >= 83.5:
        parts.append("no purchase in the last twelve weeks.")
    else:
        parts.append(
            f"last seen {_days(typical['recency_days'])} ago, "
            f"{_count(typical['visit_days_84'], 'shopping day')} in twelve weeks, usually "
            f"{_days(typical['gap_ewma'])} apart, {_money(np.expm1(typical['log_spend_84']))} spent in that time."
        )
    for label, words in (("purchase_7d", "buy within a week"), ("churn_28d", "stay away for the next four weeks")):
        known = rows.labels[label][rows.labels[label] != UNKNOWN]
        if len(known):
            parts.append(f"{known.mean():.0%} {words}.")
    return " ".join(parts)


def _rule(centroid: NDArray[np.floating]) -> tuple[str, Callable[[dict[str, float]], bool], str]:
    features = _by_name(centroid)
    return next(rule for rule in RULES if rule[1](features))


def _by_name(row: NDArray[np.floating]) -> dict[str, float]:
    return dict(zip(FEATURES, row.tolist(), strict=True))


def _days(days: float) -> str:
    return _count(max(days, 1), "day") if days < 28 else _count(days / 7, "week")


def _count(number: float, thing: str) -> str:
    rounded = round(number)
    return f"{rounded} {thing}" if rounded == 1 else f"{rounded} {thing}s"


def _money(amount: float) -> str:
    """Two figures are enough to picture it, and the currency is the data's own."""
    step = 10 ** max(0, len(str(int(amount))) - 2)
    return f"{round(amount / step) * step:,}"
