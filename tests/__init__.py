"""Tests, and what they share; a package so that `tests.peers` can be imported anywhere."""
