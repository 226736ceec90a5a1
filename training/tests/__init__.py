"""Tests of the training package, on small made-up tables."""
