"""What a sampled step is measured by, on the device and in few operations."""
