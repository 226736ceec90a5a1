"""Trains the models that Footfall serves, from the features that Footfall itself exports.

``python -m training`` exports the snapshots of a data set with ``footfall features``, trains
every model of :mod:`training.catalog` on them, evaluates what it exported on weeks that no
training saw, and writes each to ``models/<name>/<version>/`` beside its contract.

No feature is computed here: :mod:`training.table` reads them, and everything that a model
does to them (scaling, calibration) is inside its exported graph.
"""
