"""Outputs and labels of a classifier as rows: forms, chunks, and what is held out."""
