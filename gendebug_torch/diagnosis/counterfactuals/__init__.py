"""Worlds between validation and production: rows reweighted, inputs changed, labels exchanged."""
