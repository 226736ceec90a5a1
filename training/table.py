"""The table of snapshots that ``footfall features`` exports, and how it is split in time.

A row is one customer at the end of one day: ten features, the last ten shopping days, and
what happened next (labels) as far as the data reach.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

# The order in which every model takes them.
FEATURES: tuple[str, ...] = (
    "recency_days",
    "visit_days_7",
    "visit_days_28",
    "visit_days_84",
    "log_spend_28",
    "log_spend_84",
    "gap_ewma",
    "overdue",
    "departments_28",
    "discount_share_84",
)
# The values of one shopping day in a sequence, in order.
SEQUENCE: tuple[str, ...] = ("age_days", "gap_days", "log_spend", "departments", "discount_share")
SEQUENCE_DAYS = 10
# Days until each label is known.
HORIZON: dict[str, int] = {"purchase_7d": 7, "churn_28d": 28, "redeem_28d": 28}

UNKNOWN = -1


class TableError(ValueError):
    """A table that cannot be trained from; its text is one line that says what is wrong where."""


@dataclass(frozen=True)
class Table:
    """Snapshots, row by row.

    Attributes:
        customer: IDs, object [n].
        day: the day at whose end the row was taken, int32 [n]; day 1 is the history's first.
        features: float64 [n, 10] in the order of FEATURES.
        sequence: float64 [n, 10, 5], oldest shopping day first, columns as in SEQUENCE.
        labels: int8 [n] by name: 1 it happened, 0 it did not, UNKNOWN where it cannot be known.
        source: what data the rows were made from, with its digest where that is known.
    """

    customer: NDArray[np.object_]
    day: NDArray[np.int32]
    features: NDArray[np.float64]
    sequence: NDArray[np.float64]
    labels: dict[str, NDArray[np.int8]]
    source: str = "unknown"

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.day)

    def take(self, rows: NDArray[np.bool_]) -> Table:
        """The rows where the mask (bool [n]) holds."""
        return Table(
            customer=self.customer[rows],
            day=self.day[rows],
            features=self.features[rows],
            sequence=self.sequence[rows],
            labels={name: values[rows] for name, values in self.labels.items()},
            source=self.source,
        )

    def between(self, first: int, last: int) -> Table:
        """The rows of days first to last, both included.

        Raises:
            TableError: if there is none.
        """
        rows = self.take((self.day >= first) & (self.day <= last))
        if len(rows) == 0:
            raise TableError(f"no snapshot in days {first} to {last}: the table has {self._span()}")
        return rows

    def known(self, label: str) -> Table:
        """The rows whose label is known.

        Raises:
            TableError: if there is none, or if all are alike, so that nothing can be learned.
        """
        rows = self.take(self.labels[label] != UNKNOWN)
        values = np.unique(rows.labels[label])
        if len(values) == 0:
            raise TableError(f"{label} is unknown in all rows of {self._span()}")
        if len(values) == 1:
            raise TableError(f"{label} is {bool(values[0])} in all rows of {self._span()}: nothing can be learned")
        return rows

    def fingerprint(self) -> str:
        """A digest of the rows, whatever their order or the file they were read from.

        Rows are taken by day and customer ID (as UTF-8). Hashed are the names of the columns,
        the IDs, and each array's little-endian bytes, with -0 as 0.
        """
        encoded = np.array([c.encode() for c in self.customer], dtype=object)
        order = sorted(range(len(self)), key=lambda i: (self.day[i], encoded[i]))
        digest = hashlib.sha256()
        columns = ("customer_id", "day", *FEATURES, "sequence", *sorted(self.labels))
        digest.update("\n".join((*columns, "")).encode())
        # An ID has no control character, so that a line end parts them without doubt.
        digest.update(b"\n".join(encoded[order]) + b"\n")
        digest.update(self.day[order].astype("<i4").tobytes())
        digest.update((self.features[order] + 0.0).astype("<f8").tobytes())
        digest.update((self.sequence[order] + 0.0).astype("<f8").tobytes())
        for name in sorted(self.labels):
            digest.update(self.labels[name][order].astype("<i1").tobytes())
        return f"sha256:{digest.hexdigest()}"

    def _span(self) -> str:
        return f"days {self.day.min()} to {self.day.max()}" if len(self) else "no rows"


@dataclass(frozen=True)
class Splits:
    """First and last day of the snapshots to train on, to validate with and to test with.

    Time parts them, never chance: a row of next week knows too much about this week's.
    """

    train: tuple[int, int]
    validate: tuple[int, int]
    test: tuple[int, int]

    def of(self, table: Table, label: str) -> tuple[Table, Table, Table]:
        """The rows to train on, validate with and test with, all with a known label.

        What a split may learn from must be over when the next one begins: a row is left out
        where its label looks further than the next split's first day.

        Raises:
            TableError: if one of them has no row, or only rows of one outcome.
        """
        horizon = HORIZON[label]
        return (
            self._rows(table, "train", self.train[0], min(self.train[1], self.validate[0] - horizon), label),
            self._rows(table, "validate", self.validate[0], min(self.validate[1], self.test[0] - horizon), label),
            self._rows(table, "test", *self.test, label),
        )

    @staticmethod
    def _rows(table: Table, split: str, first: int, last: int, label: str) -> Table:
        try:
            return table.between(first, last).known(label)
        except TableError as error:
            raise TableError(f"split {split} of {label}: {error}") from None


# Complete Journey, 2017: the end of every Sunday from 26 March to 27 August, from 3 September
# to 8 October, and from 15 October to 17 December. Twelve weeks pass first, so that the
# longest window is full. Day 1 is Sunday 1 January.
COMPLETE_JOURNEY = Splits(train=(85, 239), validate=(246, 281), test=(288, 351))


def read(path: Path) -> Table:
    """Reads the Parquet file that ``footfall features`` wrote.

    Raises:
        TableError: if it cannot be read, lacks a column, or has a value that no model may see.
    """
    try:
        file = pq.read_table(path)
    except FileNotFoundError:
        raise TableError(f"{path}: there is no such file") from None
    except (OSError, pa.ArrowException) as error:
        raise TableError(f"{path}: not a readable Parquet file: {str(error).splitlines()[0]}") from None
    try:
        return of_arrow(file)
    except TableError as error:
        raise TableError(f"{path}: {error}") from None


def of_arrow(file: pa.Table) -> Table:
    """Checks and converts an Arrow table with the columns of the export.

    Raises:
        TableError: as :func:`read` does.
    """
    missing = [c for c in ("customer_id", "day", *FEATURES, "sequence", *HORIZON) if c not in file.column_names]
    if missing:
        raise TableError(f"column {', '.join(missing)} is missing: export it anew with footfall features")
    if file.num_rows == 0:
        raise TableError("the table has no rows")

    features = np.column_stack([_numbers(file, name, np.float64) for name in FEATURES])
    for i, name in enumerate(FEATURES):
        _finite(name, features[:, i])
    table = Table(
        customer=_ids(file),
        day=_numbers(file, "day", np.int32),
        features=features,
        sequence=_sequences(file),
        labels={name: _label(file, name) for name in HORIZON},
        source=_source(file.schema.metadata or {}),
    )
    if len(set(zip(table.customer, table.day.tolist(), strict=True))) < len(table):
        raise TableError("a customer has two rows of one day")
    return table


def _source(metadata: dict[bytes, bytes]) -> str:
    name = metadata.get(b"footfall.source", b"unknown").decode()
    digest = metadata.get(b"footfall.digest", b"").decode()
    return f"{name}, sha256:{digest}" if digest else name


def _ids(file: pa.Table) -> NDArray[np.object_]:
    column = file.column("customer_id").combine_chunks().cast(pa.string(), safe=True)
    if column.null_count:
        raise TableError(f"customer_id is null in {column.null_count} rows")
    return np.array(column.to_pylist(), dtype=object)


def _numbers(file: pa.Table, name: str, dtype: type[np.generic]) -> NDArray[np.generic]:
    column = file.column(name)
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise TableError(f"column {name} is of type {column.type}, not of numbers")
    if column.null_count:
        raise TableError(f"{name} is null in {column.null_count} rows")
    return column.to_numpy().astype(dtype)


def _sequences(file: pa.Table) -> NDArray[np.float64]:
    column = file.column("sequence").combine_chunks()
    if not pa.types.is_list(column.type) and not pa.types.is_large_list(column.type):
        raise TableError(f"column sequence is of type {column.type}, not a list of numbers")
    if column.null_count:
        raise TableError(f"sequence is null in {column.null_count} rows")
    want = SEQUENCE_DAYS * len(SEQUENCE)
    lengths = column.value_lengths().to_numpy()
    if (lengths != want).any():
        row = int(np.argmax(lengths != want))
        raise TableError(f"sequence of row {row} has {lengths[row]} values, not {want}")
    values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
    _finite("sequence", values.reshape(-1, want).sum(axis=1))
    return values.reshape(-1, SEQUENCE_DAYS, len(SEQUENCE))


def _label(file: pa.Table, name: str) -> NDArray[np.int8]:
    column = file.column(name)
    if pa.types.is_boolean(column.type) or pa.types.is_integer(column.type):
        values = column.cast(pa.int8()).fill_null(UNKNOWN).to_numpy().astype(np.int8)
        if np.isin(values, (0, 1, UNKNOWN)).all():
            return values
    elif pa.types.is_null(column.type):
        return np.full(len(column), UNKNOWN, dtype=np.int8)
    raise TableError(f"column {name} is of type {column.type} with values other than true, false and null")


def _finite(name: str, values: NDArray[np.float64]) -> None:
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values)))
        raise TableError(f"{name} of row {row} is {values[row]}")
