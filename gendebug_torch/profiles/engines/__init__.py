"""Engines that hold tables in partitions: each file makes one profile of a table of one engine."""
