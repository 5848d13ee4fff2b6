"""Rows, groups and near duplicates that partitions of the data share."""
