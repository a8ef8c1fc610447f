"""Programs of PaddlePaddle as graphs of PyTorch's operators."""
