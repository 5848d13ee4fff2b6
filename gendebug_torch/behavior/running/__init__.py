"""A suite put to a model: verdicts, margins, comparison of two runs."""
