"""What is explained: the options of a run, its inputs, output, baseline and batches."""
