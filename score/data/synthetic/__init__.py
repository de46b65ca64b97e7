"""The synthetic aerial sets: themes, shapes, facilities, scenes, and the generator of files."""
