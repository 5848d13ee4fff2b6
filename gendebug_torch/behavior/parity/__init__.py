"""Whether what is served answers as the network does, and what explains it where it does not."""
