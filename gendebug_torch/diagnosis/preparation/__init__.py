"""What happens to the inputs of a diagnosis before its checks run."""
