"""Training and inference loops on detectron2's own parts."""
