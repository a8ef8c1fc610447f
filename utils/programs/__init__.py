"""Translates PaddlePaddle programs to graphs of PyTorch operators."""
