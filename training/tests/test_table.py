"""Reading, splitting and fingerprinting the table of snapshots."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from training.table import COMPLETE_JOURNEY, FEATURES, Splits, Table, TableError, of_arrow, read


def replace(export: pa.Table, name: str, column: pa.Array | pa.ChunkedArray) -> pa.Table:
    return export.set_column(export.column_names.index(name), name, column)


def test_what_was_written_is_read(export: pa.Table, tmp_path: Path) -> None:
    path = tmp_path / "features.parquet"
    marked = export.replace_schema_metadata({"footfall.source": "synthetic", "footfall.digest": "0f"})
    pq.write_table(marked, path, row_group_size=100)
    rows = read(path)
    assert rows.source == "synthetic, sha256:0f"
    for i, name in enumerate(FEATURES):
        np.testing.assert_array_equal(rows.features[:, i], export.column(name).to_numpy())
    np.testing.assert_array_equal(rows.sequence[17].reshape(-1), export.column("sequence")[17].as_py())
    want = [-1 if v is None else int(v) for v in export.column("churn_28d").to_pylist()]
    np.testing.assert_array_equal(rows.labels["churn_28d"], want)


def one_line(error: pytest.ExceptionInfo[TableError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TableError) as error:
        read(tmp_path / "none.parquet")
    assert "none.parquet: there is no such file" in one_line(error)


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    path = tmp_path / "features.parquet"
    path.write_text("customer_id,day\n1,1\n" * 10)
    with pytest.raises(TableError) as error:
        read(path)
    assert "not a readable Parquet file" in one_line(error)


def test_missing_columns_are_named(export: pa.Table) -> None:
    with pytest.raises(TableError) as error:
        of_arrow(export.drop_columns(["overdue", "churn_28d"]))
    assert "column overdue, churn_28d is missing" in one_line(error)


def test_an_empty_table_is_refused(export: pa.Table) -> None:
    with pytest.raises(TableError, match="the table has no rows"):
        of_arrow(export.slice(0, 0))


def test_a_sequence_of_another_length_is_refused(export: pa.Table) -> None:
    sequences = export.column("sequence").to_pylist()
    sequences[3] = sequences[3][:45]
    with pytest.raises(TableError) as error:
        of_arrow(replace(export, "sequence", pa.array(sequences)))
    assert "sequence of row 3 has 45 values, not 50" in one_line(error)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused(export: pa.Table, value: float) -> None:
    gaps = export.column("gap_ewma").to_pylist()
    gaps[5] = value
    with pytest.raises(TableError, match=f"gap_ewma of row 5 is {value}"):
        of_arrow(replace(export, "gap_ewma", pa.array(gaps)))
    sequences = export.column("sequence").to_pylist()
    sequences[2] = [*sequences[2][:-1], value]
    with pytest.raises(TableError, match=f"sequence of row 2 is {value}"):
        of_arrow(replace(export, "sequence", pa.array(sequences)))


def test_a_null_is_refused(export: pa.Table) -> None:
    gaps = [None, *export.column("gap_ewma").to_pylist()[1:]]
    with pytest.raises(TableError, match="gap_ewma is null in 1 rows"):
        of_arrow(replace(export, "gap_ewma", pa.array(gaps)))


def test_a_column_of_another_type_is_refused(export: pa.Table) -> None:
    with pytest.raises(TableError, match="column overdue is of type string"):
        of_arrow(replace(export, "overdue", export.column("overdue").cast(pa.string())))
    with pytest.raises(TableError, match="column purchase_7d is of type int32 with values other than"):
        of_arrow(replace(export, "purchase_7d", pa.array([2] * len(export), pa.int32())))


def test_a_snapshot_that_stands_twice_is_refused(export: pa.Table) -> None:
    with pytest.raises(TableError, match="two rows of one day"):
        of_arrow(pa.concat_tables([export, export.slice(4, 1)]))


def test_the_fingerprint_is_of_the_rows_alone(export: pa.Table, rows: Table, tmp_path: Path) -> None:
    shuffled = export.take(np.random.default_rng(2).permutation(len(export)))
    narrow = {"purchase_7d": shuffled.column("purchase_7d").cast(pa.int8())}
    for name, column in narrow.items():
        shuffled = replace(shuffled, name, column)
    path = tmp_path / "other.parquet"
    pq.write_table(shuffled.replace_schema_metadata({}), path, compression="zstd", row_group_size=7)
    assert read(path).fingerprint() == rows.fingerprint()
    assert rows.fingerprint().startswith("sha256:")


@pytest.mark.parametrize("column", ["customer_id", "day", "recency_days", "sequence", "churn_28d"])
def test_the_fingerprint_sees_every_column(export: pa.Table, rows: Table, column: str) -> None:
    values = export.column(column).to_pylist()
    changed = {
        "customer_id": "x",
        "day": 999,
        "recency_days": np.nextafter(values[0] if column == "recency_days" else 0.0, 1e9),
        "sequence": [*values[0][:-1], 0.5] if column == "sequence" else None,
        "churn_28d": not values[0],
    }[column]
    altered = replace(export, column, pa.array([changed, *values[1:]], export.schema.field(column).type))
    assert of_arrow(altered).fingerprint() != rows.fingerprint()


def test_the_fingerprint_keeps_neighbouring_ids_apart(export: pa.Table) -> None:
    two = export.slice(0, 2)
    one = of_arrow(replace(two, "customer_id", pa.array(["ab", "c"])))
    other = of_arrow(replace(two, "customer_id", pa.array(["a", "bc"])))
    assert one.fingerprint() != other.fingerprint()


def test_splits_never_learn_from_what_a_later_split_is_asked(rows: Table) -> None:
    for label, horizon in (("purchase_7d", 7), ("churn_28d", 28)):
        train, validate, test = COMPLETE_JOURNEY.of(rows, label)
        assert train.day.min() == 85
        assert train.day.max() + horizon <= validate.day.min()
        assert validate.day.max() + horizon <= test.day.min()
        assert test.day.max() <= min(351, 365 - horizon)
        # A week later would have looked too far, or does not belong to the split.
        assert train.day.max() + 7 + horizon > validate.day.min()
        assert all((part.labels[label] >= 0).all() for part in (train, validate, test))
    assert train.day.max() == 218
    assert test.day.max() == 337


def test_an_empty_split_says_which_and_what_there_is(rows: Table) -> None:
    splits = Splits(train=(85, 239), validate=(246, 281), test=(1000, 1100))
    with pytest.raises(TableError) as error:
        splits.of(rows, "purchase_7d")
    assert one_line(error) == (
        "split test of purchase_7d: no snapshot in days 1000 to 1100: the table has days 85 to 365"
    )
    with pytest.raises(TableError, match="split test of churn_28d: churn_28d is unknown in all rows of days 351 to"):
        Splits(train=(85, 239), validate=(246, 281), test=(351, 365)).of(rows, "churn_28d")


def test_a_split_of_one_outcome_is_refused(export: pa.Table) -> None:
    never = of_arrow(replace(export, "purchase_7d", pa.array([False] * len(export))))
    with pytest.raises(TableError, match="purchase_7d is False in all rows of days 85 to 239: nothing can be learned"):
        COMPLETE_JOURNEY.of(never, "purchase_7d")
