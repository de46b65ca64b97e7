"""Frozen image-text encoders behind one interface (:class:`score.model.towers.base.Tower`)."""
