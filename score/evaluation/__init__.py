"""Metrics: from predictions and ground truth to tables."""
