"""Built-in facts, claims and two small models; README.md is the data card. To the rest, its files are data."""
