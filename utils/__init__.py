"""What the scripts share: one module per concern."""

import os

# OpenMP threads that wait for one another spin by default. On a processor that they share with reader workers, or with
# other users, that makes training steps many times slower; sleeping costs next to nothing. OpenMP reads this once,
# when PyTorch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# OpenCV would decode images of 2 ** 30 pixels, for which eight workers need some 50 GB: utils/reading/limits.py.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 27))
