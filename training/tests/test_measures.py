"""The measures, against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from training import measures
from training.table import COMPLETE_JOURNEY, Table


@pytest.mark.parametrize("bins", [10, 15])
def test_calibration_error_is_that_of_the_calibration_curve(bins: int) -> None:
    random = np.random.default_rng(3)
    foretold = random.beta(0.6, 0.9, 5000)
    happened = (random.random(5000) < foretold**1.3).astype(np.int8)
    true, mean = calibration_curve(happened, foretold, n_bins=bins, strategy="uniform")
    sizes = np.histogram(foretold, np.linspace(0, 1, bins + 1))[0]
    want = np.sum(np.abs(true - mean) * sizes[sizes > 0]) / 5000
    assert measures.calibration_error(happened, foretold, bins) == pytest.approx(want, abs=1e-9)
    assert want > 0.02


def test_calibration_error_by_hand() -> None:
    happened = np.array([0, 1, 1, 1], dtype=np.int8)
    # Two in the first of two bins, foretold .2 on average, half of which happened; two in the
    # second (1 belongs to it), foretold .9, which both happened.
    foretold = np.array([0.1, 0.3, 0.8, 1.0])
    assert measures.calibration_error(happened, foretold, 2) == pytest.approx(0.5 * 0.3 + 0.5 * 0.1)


def test_measures_by_hand() -> None:
    happened = np.array([1, 0, 1, 0], dtype=np.int8)
    foretold = np.array([0.9, 0.6, 0.6, 0.1], dtype=np.float32)
    m = measures.of_probabilities(happened, foretold)
    # Of four pairs three are in order and one is a tie.
    assert m["auc"] == pytest.approx(3.5 / 4)
    assert m["average_precision"] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert m["log_loss"] == pytest.approx(-np.log([0.9, 0.4, 0.6, 0.9]).mean(), abs=1e-6)
    assert (m["base_rate"], m["rows"]) == (0.5, 4)


def test_baselines_are_of_the_same_rows(rows: Table) -> None:
    train, _, test = COMPLETE_JOURNEY.of(rows, "purchase_7d")
    b = measures.of_baselines(train, test, "purchase_7d")
    assert b["baseline_constant_auc"] == 0.5
    share = test.labels["purchase_7d"].mean()
    assert b["baseline_constant_average_precision"] == pytest.approx(share)
    assert b["baseline_visits_auc"] > 0.8
    assert b["baseline_logistic_log_loss"] < b["baseline_constant_log_loss"]
