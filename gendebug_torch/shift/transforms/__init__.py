"""What may be done to a column: another unit, other names, another column, another clock."""
