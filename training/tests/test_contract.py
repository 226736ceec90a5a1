"""The contract beside a model."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import yaml

from training import networks, store
from training.contract import Contract, bins
from training.segments import Segment
from training.table import FEATURES, SEQUENCE, Table


def test_bins_are_counted_as_they_are_written() -> None:
    values = np.random.default_rng(9).gamma(0.7, 20, 4321)
    b = bins(values)
    assert len(b.edges) == 9
    assert sum(b.shares) == pytest.approx(1, abs=1e-5)
    assert max(b.shares) - min(b.shares) < 0.001
    # As a server counts: the number of edges below the value, both float32.
    edges = np.array(b.edges, dtype=np.float32)
    counted = np.bincount([(edges < v).sum() for v in values.astype(np.float32)], minlength=10) / len(values)
    np.testing.assert_allclose(counted, b.shares, atol=1e-6)


def test_bins_of_few_values_are_fewer() -> None:
    b = bins(np.repeat([0.0, 1.0, 2.0], [700, 200, 100]))
    assert b.edges == [0.0, 1.0]
    assert b.shares == [0.7, 0.2, 0.1]
    assert bins(np.full(50, 3.0)) is None


def test_edges_read_back_as_the_same_float32() -> None:
    b = bins(np.random.default_rng(10).normal(size=1000))
    again = yaml.safe_load(yaml.safe_dump(b.edges))
    np.testing.assert_array_equal(np.float32(again), np.float32(b.edges))
    assert all(len(str(e)) < 14 for e in b.edges)


@pytest.fixture(scope="module")
def saved(rows: Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    store.export(networks.segmentation(rows.features.astype(np.float32), np.eye(10)[:2]), folder)
    return folder


def contract(rows: Table, **changes: object) -> Contract:
    values: dict[str, object] = {
        "name": "customer_segmentation",
        "version": 3,
        "description": "Which one: a or b.",
        "input_name": "features",
        "columns": FEATURES,
        "output_name": "segment",
        "output_kind": "segment",
        "train": rows,
        "evaluation": {"silhouette": 0.123456789, "rows": 10},
        "seed": 7,
        "segments": [Segment(0, "a", "As: many."), Segment(1, "b", "Bs.")],
        "created": datetime(2026, 1, 31, 12, 0, tzinfo=UTC),
    }
    return Contract(**{**values, **changes})


def test_the_text_holds_what_a_server_asks_for(rows: Table, saved: Path) -> None:
    text = contract(rows).text(saved)
    document = yaml.safe_load(text)
    assert list(document) == [
        "name",
        "version",
        "description",
        "signature",
        "inputs",
        "outputs",
        "segments",
        "bins",
        "data",
        "evaluation",
        "trained_with",
        "created",
    ]
    assert document["inputs"] == [
        {"name": "features", "tensor": "features", "shape": [-1, 10], "features": list(FEATURES)}
    ]
    assert document["outputs"] == [{"name": "segment", "tensor": "output_0", "shape": [-1, 1], "kind": "segment"}]
    assert document["segments"][0] == {"id": 0, "name": "a", "description": "As: many."}
    assert set(document["bins"]) == set(FEATURES)
    assert document["data"]["digest"] == rows.fingerprint()
    assert document["data"]["rows"] == len(rows)
    assert document["data"]["days"] == [85, 365]
    assert document["evaluation"] == {"silhouette": 0.12346, "rows": 10}
    assert "\ncreated: 2026-01-31T12:00:00Z\n" in text


def test_a_graph_that_takes_something_else_is_refused(rows: Table, saved: Path) -> None:
    with pytest.raises(ValueError, match=r"takes \['features'\] and answers \['output_0'\], not sequence"):
        contract(rows, input_name="sequence", columns=SEQUENCE).text(saved)
