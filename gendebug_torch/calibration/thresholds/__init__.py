"""Decision thresholds and the class priors that they depend on."""
