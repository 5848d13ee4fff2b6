"""Suites: cases and expectations, their files, and how cases are added."""
