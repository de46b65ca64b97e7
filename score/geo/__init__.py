"""Rasters with coordinates in, vectors out; what finds objects in pixels is a callable, so no model is known here."""
