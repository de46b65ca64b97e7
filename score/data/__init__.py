"""Datasets: from YAML specs and COCO JSON to what detectron2's loaders read."""
