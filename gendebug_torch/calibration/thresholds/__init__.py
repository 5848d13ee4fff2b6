"""Where a model says yes: thresholds, and class shares they depend on."""
