"""The engine: specification, placement, trials on a real Ray, results and tracking, seen through a toy study."""
