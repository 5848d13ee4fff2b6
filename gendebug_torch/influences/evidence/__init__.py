"""Whether the scores mean something: exchangeable rows, and a refit without the named ones."""
