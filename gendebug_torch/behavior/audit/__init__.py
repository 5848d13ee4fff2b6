"""How much a suite would notice: planted faults and redundant cases."""
