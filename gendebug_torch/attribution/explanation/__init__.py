"""What is explained: inputs, output, baseline, and the options of a run."""
