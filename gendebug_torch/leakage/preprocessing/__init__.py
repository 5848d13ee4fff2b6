"""Which rows a transformation was fitted on, and whether serving computes the same."""
