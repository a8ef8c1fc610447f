"""What the scripts share: one module per concern."""

import os
import sys

__version__ = "1.0.0"  # CHANGELOG.md and CITATION.cff have it as well

# Older versions would end in a traceback in the modules imported next; all versions of Python 3 can read this file.
if sys.version_info < (3, 10):  # noqa: UP036
    sys.exit(
        "%s: error: Python 3.10 or newer is needed, and this is %s: bash run.sh setup finds or names one"  # noqa: UP031
        % (os.path.basename(sys.argv[0]), sys.version.split()[0])
    )

# Cron jobs and daemons may start with their standard streams closed. The next files opened would then get the streams'
# numbers, and libraries would print into them; and Python's streams would be None.
for _number, _name, _mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
    try:
        os.fstat(_number)
    except OSError:
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets the lowest free number: this one
    if getattr(sys, _name) is None:
        setattr(sys, _name, open(os.devnull, _mode))  # noqa: SIM115 (until the process ends)

# Waiting OpenMP threads spin by default. On a processor shared with reader workers or other users, that makes training
# steps many times slower; sleeping costs next to nothing. OpenMP reads this once, when PyTorch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# OpenCV would decode images of up to 2 ** 30 pixels, for which eight workers need about 50 GB
# (utils/reading/limits.py). It reads the variable once, on import; --max_image_pixels sets it before that, and worker
# processes inherit it.
PIXELS_VARIABLE = "OPENCV_IO_MAX_IMAGE_PIXELS"
MAX_IMAGE_PIXELS = 1 << 27
os.environ.setdefault(PIXELS_VARIABLE, str(MAX_IMAGE_PIXELS))
