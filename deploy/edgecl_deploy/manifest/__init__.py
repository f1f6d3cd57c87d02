"""The words that every format shares: fields, canonical JSON, limits."""
