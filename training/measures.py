"""How well probabilities foretold what happened: the measures that a contract records."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from training.table import FEATURES, Table

# The bins of `ece`: equally wide ones of [0, 1], as the node's own quality report has them.
ECE_BINS = 10


def calibration_error(happened: NDArray[np.int8], foretold: NDArray[np.floating], bins: int = ECE_BINS) -> float:
    """The expected calibration error: the mean gap, over rows, between foretold and happened in their bin.

    Args:
        happened: 0 or 1, [n].
        foretold: probabilities, [n].
        bins: number of equally wide bins of [0, 1]; 1 falls into the last.
    """
    which = np.minimum((foretold * bins).astype(int), bins - 1)
    gaps = np.bincount(which, weights=foretold - happened, minlength=bins)
    return float(np.abs(gaps).sum() / len(happened))


def of_probabilities(happened: NDArray[np.int8], foretold: NDArray[np.floating]) -> dict[str, float]:
    """AUC, average precision, log-loss, calibration error, base rate and number of rows.

    Args:
        happened: 0 or 1, [n], both among them.
        foretold: probabilities, [n].
    """
    foretold = np.asarray(foretold, dtype=np.float64)
    return {
        "auc": float(roc_auc_score(happened, foretold)),
        "average_precision": float(average_precision_score(happened, foretold)),
        "log_loss": float(log_loss(happened, foretold)),
        "ece": calibration_error(happened, foretold),
        "base_rate": float(np.mean(happened)),
        "rows": len(happened),
    }


def of_baselines(train: Table, test: Table, label: str) -> dict[str, float]:
    """What a model has to beat, on the same rows, with keys `baseline_<which>_<measure>`.

    `constant` says the training rows' rate to everyone, `visits` is a logistic regression on
    visit_days_84 alone, `logistic` one on all ten features.
    """
    happened = test.labels[label]
    visits = [FEATURES.index("visit_days_84")]
    everything = list(range(len(FEATURES)))
    foretold = {"constant": np.full(len(test), train.labels[label].mean(), dtype=np.float64)}
    for which, columns in (("visits", visits), ("logistic", everything)):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        model.fit(train.features[:, columns], train.labels[label])
        foretold[which] = model.predict_proba(test.features[:, columns])[:, 1]
    return {
        f"baseline_{which}_{measure}": value
        for which, probabilities in foretold.items()
        for measure, value in of_probabilities(happened, probabilities).items()
        if measure not in ("base_rate", "rows")
    }
