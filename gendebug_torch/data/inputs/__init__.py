"""Where inputs come from that are no tables: data sets that can be read again, pictures."""
