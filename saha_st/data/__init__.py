"""Data: MMEB and your own pairs as `anchor`/`positive` datasets, what is wrong with them, and content keys."""
