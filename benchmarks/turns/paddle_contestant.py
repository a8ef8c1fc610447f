"""A contestant of benchmarks/paddle_inference.py: Paddle Inference, under a Python that has PaddlePaddle 3.

python paddle_contestant.py PROGRAM PARAMS BATCH_SIZE IMAGE_SIZE THREADS ONEDNN
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import paddle.inference as paddle_inference  # type: ignore[import-not-found]  # an optional peer
from race import serve


def main() -> None:
    program, params, *numbers = sys.argv[1:]
    batch_size, image_size, threads, onednn = map(int, numbers)
    config = paddle_inference.Config(program, params)
    config.disable_gpu()
    config.set_cpu_math_library_num_threads(threads)
    config.disable_glog_info()
    if onednn:
        config.enable_mkldnn()
    else:
        config.disable_mkldnn()
    predictor = paddle_inference.create_predictor(config)
    images = predictor.get_input_handle(predictor.get_input_names()[0])
    outputs = predictor.get_output_handle(predictor.get_output_names()[0])
    pixels = np.random.RandomState(7).uniform(-2, 2, (batch_size, 3, image_size, image_size)).astype(np.float32)

    def run() -> object:
        images.copy_from_cpu(pixels)
        predictor.run()
        return outputs.copy_to_cpu()

    serve(run)


if __name__ == "__main__":
    main()
