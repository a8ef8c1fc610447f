"""What the scripts share: one module per concern."""

import os
import sys

__version__ = "1.0.0"  # CHANGELOG.md and CITATION.cff have it as well

# Older ones would end in a traceback, somewhere in the modules imported next; this file is read by all of Python 3.
if sys.version_info < (3, 10):  # noqa: UP036
    sys.exit(
        "%s: error: Python 3.10 or newer is needed, and this is %s: bash run.sh setup finds or names one"  # noqa: UP031
        % (os.path.basename(sys.argv[0]), sys.version.split()[0])
    )

# Cron jobs and daemons may be started with their standard streams closed. The next files opened would get the numbers
# of these, and have what libraries print written into them; and Python has None in place of the streams.
for _number, _name, _mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
    try:
        os.fstat(_number)
    except OSError:
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets the lowest number that is free: this one
    if getattr(sys, _name) is None:
        setattr(sys, _name, open(os.devnull, _mode))  # noqa: SIM115 (until the process ends)

# OpenMP threads that wait for one another spin by default. On a processor that they share with reader workers, or with
# other users, that makes training steps many times slower; sleeping costs next to nothing. OpenMP reads this once,
# when PyTorch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# OpenCV would decode images of 2 ** 30 pixels, for which eight workers need some 50 GB: utils/reading/limits.py. It
# reads the variable once, when it is imported; --max_image_pixels sets it before, and worker processes inherit it.
PIXELS_VARIABLE = "OPENCV_IO_MAX_IMAGE_PIXELS"
MAX_IMAGE_PIXELS = 1 << 27
os.environ.setdefault(PIXELS_VARIABLE, str(MAX_IMAGE_PIXELS))
