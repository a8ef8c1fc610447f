"""Evaluates networks: metrics, predictions, features and pictures."""
