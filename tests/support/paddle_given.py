"""What the cases of `make_paddle_cases` are given. (Python 3.7 reads this too, for PaddlePaddle 1.8.)"""

import zlib

import numpy as np


def given(name, kinds):
    """The arrays for a case.

    Args:
        name: of the case, which says what they hold.
        kinds: shape and data type of each, by name.
    """
    random = np.random.RandomState(zlib.crc32(name.encode()) & 0xFFFFFFFF)
    arrays = {}
    for key, (shape, dtype) in kinds.items():
        if dtype == "float32":
            array = random.uniform(-2, 2, shape)
        elif dtype == "bool":
            array = random.uniform(0, 1, shape) > 0.5
        else:
            array = random.randint(0, 4, shape)
        arrays[key] = array.astype(dtype)
    return arrays
