"""Exported networks: writing them, reading them, and the engines that run them."""
