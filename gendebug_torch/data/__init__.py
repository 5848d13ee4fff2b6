"""What rows are and how they enter: records, schemas, tables, files."""
