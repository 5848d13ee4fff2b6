"""What a step is measured by, on the device and in few operations; and the rows of a batch."""
