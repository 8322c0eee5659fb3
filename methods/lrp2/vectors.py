"""Language vectors as the layer search names them; they lie with the backbone because other studies project too."""

from methods.backbone.vectors import Specials, cached_vectors, language_vectors, random_like

__all__ = ["Specials", "cached_vectors", "language_vectors", "random_like"]
