"""What tests share: a made-up table in which something can be learned."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from training.table import COMPLETE_JOURNEY, FEATURES, HORIZON, SEQUENCE_DAYS, Table, of_arrow


def arrow(customers: int = 40, seed: int = 1) -> pa.Table:
    """An export of weekly snapshots over the days of Complete Journey, as an Arrow table.

    Customers are of five kinds, from frequent to lapsed, and what happens next depends on it.
    Labels are null where the year ends too early to tell.
    """
    random = np.random.default_rng(seed)
    days = np.arange(COMPLETE_JOURNEY.train[0], 366, 7)
    columns: dict[str, list] = {name: [] for name in ("customer_id", "day", *FEATURES, "sequence", *HORIZON)}
    for day in days:
        for customer in range(customers):
            kind = customer % 5
            rate = (0.5, 0.2, 0.1, 0.03, 0.005)[kind]
            visits = random.binomial(84, rate)
            recency = min(84.0, random.exponential(1 / rate))
            gap = min(84.0, 1 / rate * random.uniform(0.8, 1.2))
            features = (
                recency,
                float(random.binomial(7, rate)),
                visits / 3,
                float(visits),
                np.log1p(visits * 10.0),
                np.log1p(visits * 30.0),
                gap,
                min(20.0, recency / gap),
                float(min(visits, random.integers(1, 12))),
                random.uniform(0, 0.4),
            )
            columns["customer_id"].append(str(customer))
            columns["day"].append(day)
            for name, value in zip(FEATURES, features, strict=True):
                columns[name].append(value)
            ages = np.sort(random.uniform(0, 84, SEQUENCE_DAYS))[::-1] * (1 - rate)
            sequence = np.column_stack([ages, np.full(10, gap), np.full(10, 3.0), np.full(10, 4.0), np.full(10, 0.1)])
            columns["sequence"].append(sequence.reshape(-1).tolist())
            buys = random.random() < 1 - (1 - rate) ** 7
            columns["purchase_7d"].append(bool(buys) if day + 7 <= 365 else None)
            columns["churn_28d"].append(bool(random.random() < (1 - rate) ** 28) if day + 28 <= 365 else None)
            columns["redeem_28d"].append(None)
    types = {"customer_id": pa.string(), "day": pa.int32(), "sequence": pa.list_(pa.float64())}
    types |= dict.fromkeys(HORIZON, pa.bool_()) | dict.fromkeys(FEATURES, pa.float64())
    return pa.table({name: pa.array(values, type=types[name]) for name, values in columns.items()})


@pytest.fixture(scope="session")
def export() -> pa.Table:
    """An export as an Arrow table."""
    return arrow()


@pytest.fixture(scope="session")
def rows(export: pa.Table) -> Table:
    """The same, read."""
    return of_arrow(export)
