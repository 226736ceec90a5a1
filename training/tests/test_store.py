"""Versions in the folder of models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from training import networks, store
from training.runtime import keras, seed_all
from training.table import Table
from training.tests.test_contract import contract


@pytest.mark.parametrize(
    ("build", "name"), [(networks.dense, "features"), (networks.dense_ramps, "features"), (networks.lstm, "sequence")]
)
def test_an_export_answers_as_its_network(build: object, name: str, rows: Table, tmp_path: Path) -> None:
    seed_all(3)
    inputs = getattr(rows, name).astype(np.float32)
    network = networks.probabilities(build(inputs))
    store.export(network, tmp_path / "saved")
    store.check_export(tmp_path / "saved", network, inputs)
    got = store.score(tmp_path / "saved", inputs, batch=100)
    np.testing.assert_allclose(got, networks.answer(network, inputs)[:, 0], atol=1e-6)
    assert 0 < got.min() < got.max() < 1
    # A row's answer does not depend on those beside it.
    np.testing.assert_allclose(store.score(tmp_path / "saved", inputs[5:6]), got[5:6], atol=1e-6)


def test_an_export_of_another_network_is_noticed(rows: Table, tmp_path: Path) -> None:
    features = rows.features.astype(np.float32)
    seed_all(1)
    store.export(networks.dense(features), tmp_path / "saved")
    with pytest.raises(ValueError, match="the export differs from the network by"):
        store.check_export(tmp_path / "saved", networks.dense(features), features)


@pytest.fixture
def network(rows: Table) -> keras.Model:
    return networks.segmentation(rows.features.astype(np.float32), np.eye(10)[:2])


def publish(models: Path, network: keras.Model, rows: Table, version: int, input_name: str = "features") -> Path:
    with store.Draft(models, "customer_segmentation") as draft:
        store.export(network, draft.folder)
        return draft.publish(contract(rows, version=version, input_name=input_name))


def test_versions_count_on(rows: Table, network: keras.Model, tmp_path: Path) -> None:
    assert store.next_version(tmp_path, "customer_segmentation") == 1
    place = publish(tmp_path, network, rows, 1)
    assert place == tmp_path / "customer_segmentation" / "1"
    assert sorted(p.name for p in place.iterdir()) == ["fingerprint.pb", "model.yaml", "saved_model.pb", "variables"]
    assert place.stat().st_mode & 0o777 == 0o755
    publish(tmp_path, network, rows, 12)
    assert store.next_version(tmp_path, "customer_segmentation") == 13


def test_a_version_is_written_over(rows: Table, network: keras.Model, tmp_path: Path) -> None:
    place = publish(tmp_path, network, rows, 1)
    (place / "left-over").touch()
    publish(tmp_path, network, rows, 1)
    assert not (place / "left-over").exists()
    assert [p.name for p in place.parent.iterdir()] == ["1"]


def test_what_fails_leaves_what_was_there(rows: Table, network: keras.Model, tmp_path: Path) -> None:
    place = publish(tmp_path, network, rows, 1)
    before = (place / "model.yaml").read_text()
    with pytest.raises(ValueError, match="not sequence"):
        publish(tmp_path, network, rows, 1, input_name="sequence")
    assert (place / "model.yaml").read_text() == before
    assert [p.name for p in place.parent.iterdir()] == ["1"]
