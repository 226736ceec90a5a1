"""Training as a whole, on a small table."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from training import __main__ as command
from training import networks, store
from training.catalog import MODELS, Forecast, Segmentation
from training.table import COMPLETE_JOURNEY, Table, TableError


def test_the_command_knows_every_model() -> None:
    assert tuple(m.name for m in MODELS) == command.NAMES


@pytest.mark.parametrize("model", [m for m in MODELS if isinstance(m, Forecast)], ids=lambda m: m.name)
def test_a_forecast_is_trained_evaluated_and_written(model: Forecast, rows: Table, tmp_path: Path) -> None:
    quick = dataclasses.replace(model, schedule=networks.Schedule(epochs=2, rate=1e-2, batch=128))
    contract = quick.train(rows, COMPLETE_JOURNEY, tmp_path, version=4, seed=1)
    place = tmp_path / model.name / "4"
    document = yaml.safe_load((place / "model.yaml").read_text())
    evaluation = document["evaluation"]
    assert 0.7 < evaluation["auc"] <= 1
    assert evaluation["first_day"] == 288
    assert document["data"]["days"][1] == (239 if model.label == "purchase_7d" else 218)
    # The figures are those of the files that were written, on the test rows.
    test = COMPLETE_JOURNEY.of(rows, model.label)[2]
    scores = store.score(place, getattr(test, model.inputs))
    happened = test.labels[model.label]
    loss = -np.mean(np.log(np.where(happened == 1, scores, 1 - scores)))
    assert evaluation["log_loss"] == pytest.approx(loss, abs=1e-4)
    assert "AUC" in quick.summary(contract.evaluation)


def test_segments_are_found_named_and_written(rows: Table, tmp_path: Path) -> None:
    model = next(m for m in MODELS if isinstance(m, Segmentation))
    contract = model.train(rows, COMPLETE_JOURNEY, tmp_path, version=1, seed=1)
    scores = store.score(tmp_path / model.name / "1", rows.features)
    assert set(scores) == {0.0, 1.0, 2.0, 3.0, 4.0}
    assert [s.id for s in contract.segments] == [0, 1, 2, 3, 4]
    assert len({s.name for s in contract.segments}) == 5
    visits = [rows.features[scores == i, 3].mean() for i in range(5)]
    assert visits == sorted(visits, reverse=True)
    assert contract.evaluation["ari_between_seeds"] > 0.5
    assert sum(contract.evaluation[f"share_{i}"] for i in range(5)) == pytest.approx(1)


def test_too_few_different_rows_make_no_segments(rows: Table, tmp_path: Path) -> None:
    flat = dataclasses.replace(rows, features=np.tile(rows.features[0], (len(rows), 1)))
    with pytest.raises(TableError, match="fewer different rows than 5 segments"):
        Segmentation(name="customer_segmentation", description="x").train(flat, COMPLETE_JOURNEY, tmp_path, 1, 1)
    assert not any(tmp_path.iterdir())


def test_the_command_trains_the_next_version(
    export: pa.Table, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "features.parquet"
    pq.write_table(export, path)
    argv = ["--features", str(path), "--models", str(tmp_path / "models"), "--only", "customer_segmentation"]
    assert command.main(argv) == 0
    assert command.main(argv) == 0
    out = capsys.readouterr().out
    assert "customer_segmentation 1: silhouette" in out
    assert "customer_segmentation 2: silhouette" in out


def test_the_command_says_in_one_line_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command.main(["--features", "none.parquet"]) == 1
    assert capsys.readouterr().err == "training: none.parquet: there is no such file\n"
    assert command.main(["--footfall", "bin/none"]) == 1
    assert capsys.readouterr().err == "training: bin/none is missing: make build makes it\n"
    assert command.main(["--footfall", "false"]) == 1
    assert "false features completejourney --out build/features.parquet failed with exit code 1" in (
        capsys.readouterr().err
    )
    with pytest.raises(SystemExit, match="2"):
        command.main(["--version", "0"])
