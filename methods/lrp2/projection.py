"""Projection as the layer search names it; it lies with the backbone because other studies project too."""

from methods.backbone.projection import LastLayer, Pair, all_pairs, parse_pairs, projected, shift_between

__all__ = ["LastLayer", "Pair", "all_pairs", "parse_pairs", "projected", "shift_between"]
