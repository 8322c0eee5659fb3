"""What the stored hits say, without the model: groups, gaps, relations, statistics, and sweeps beside each other."""
