"""Compares the speed of the reader with other readers, and with the minimal cost of decoding.

    python benchmarks/reader.py [FOLDER]          any folder of JPEG files
    python benchmarks/reader.py --lines=10000000  a list file with this many lines

One thread each: file to uint8 (ours, DALI, timm with its prefetcher) or to a normalized float tensor (the original,
torchvision), with a random crop to 224 x 224 and a flip. The floor decodes at 1/8 of the size, which is little more
than undoing the entropy coding. All take turns for the given number of rounds; packages that are missing are left out.
Then the reader's own processes are measured, from files to batches in this process, and compared with the same
processes when nothing collects their batches. Without a folder the files are synthetic; real photographs tell more.
"""

from __future__ import annotations

import multiprocessing.synchronize
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cv2
import numpy as np
import torch
from PIL import Image

from benchmarks.pictures import write_pictures
from utils.errors import FlagError
from utils.flags.line_parser import LineParser
from utils.reading import loader as loader_module
from utils.reading.dali_loader import DaliLoader
from utils.reading.decode import read_file
from utils.reading.image_list import ImageList
from utils.reading.opencv_loader import OpenCVLoader
from utils.reading.transforms import TrainTransform, random_crop_box
from utils.reading.workers import ImageRandom, Job
from utils.torchvision_compat import import_torchvision

SIZE = (224, 224)
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

# A contestant reads all files once; the argument is the number of the round.
Contestant = Callable[[int], object]


def floor(paths: list[str]) -> Contestant:
    """Only decodes, at 1/8 of the size."""

    def run(_: int) -> None:
        for path in paths:
            cv2.imdecode(np.frombuffer(read_file(path), np.uint8), cv2.IMREAD_REDUCED_COLOR_8)

    return run


def ours(paths: list[str], decoder: str) -> Contestant:
    """The OpenCV pipeline's transform; `decoder` as in `TrainTransform`."""
    transform, random = TrainTransform(SIZE, decoder=decoder), ImageRandom(0)

    def run(number: int) -> None:
        for index, path in enumerate(paths):
            transform.decode(read_file(path), path, random.of_image(number, index))

    return run


def ours_with_dali(images: ImageList) -> Contestant:
    """The DALI pipeline, on the CPU."""
    loader = DaliLoader(images, TrainTransform(SIZE), min(64, len(images)), training=True, workers=1)

    def run(number: int) -> None:
        for _ in loader.epoch(number):
            pass

    setattr(run, "images", len(loader) * loader.batch_size)  # noqa: B010 (a function has no such attribute for a type checker)
    return run


def original(paths: list[str]) -> Contestant:
    """The original's method: decodes the whole image, crops, resizes, then converts to floats on the host."""
    mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (MEAN, STD))

    def run(number: int) -> None:
        rng = np.random.default_rng(number)
        for path in paths:
            bgr = cv2.imread(path)
            assert bgr is not None, f"{path} is not an image"
            top, left, height, width = random_crop_box(bgr.shape[0], bgr.shape[1], rng)
            image = cv2.resize(bgr[top : top + height, left : left + width], SIZE)
            if rng.random() < 0.5:
                image = image[:, ::-1, :]
            image = image[:, :, ::-1].astype("float32").transpose((2, 0, 1)) / 255
            image -= mean
            image /= std

    return run


def on_pillow(paths: list[str], transform: Callable[[Image.Image], object]) -> Contestant:
    """Opens files with Pillow, then applies a library's own transform."""

    def run(number: int) -> None:
        torch.manual_seed(number)
        for path in paths:
            with Image.open(path) as image:
                transform(image.convert("RGB"))

    return run


def torchvision_on_pillow(paths: list[str]) -> Contestant:
    """torchvision's usual training transform."""
    import_torchvision()
    from torchvision import transforms

    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE[0]),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )

    return on_pillow(paths, transform)


def timm(paths: list[str]) -> Contestant:
    """timm's training transform for its prefetcher: uint8, normalized on the device."""
    import_torchvision()
    from timm.data import create_transform  # pyright: ignore[reportMissingImports] (optional)

    transform = create_transform(
        SIZE[0], is_training=True, use_prefetcher=True, color_jitter=None, interpolation="bilinear"
    )

    return on_pillow(paths, transform)


def dali(paths: list[str]) -> Contestant:
    """DALI's own training pipeline on its CPU backend, as in its documentation."""
    from nvidia.dali import Pipeline, fn  # pyright: ignore[reportMissingImports] (optional)

    batch_size = min(64, len(paths))
    # Not pipelined, or it would keep working during the others' turns.
    pipe = Pipeline(
        batch_size=batch_size, num_threads=1, device_id=None, exec_async=False, exec_pipelined=False, seed=0
    )
    with pipe:
        files, _ = fn.readers.file(files=paths, random_shuffle=True)
        crop = fn.decoders.image_random_crop(
            files, device="cpu", random_area=[0.08, 1.0], random_aspect_ratio=[3 / 4, 4 / 3]
        )
        images = fn.resize(crop, size=SIZE, antialias=False)
        pipe.set_outputs(fn.flip(images, horizontal=fn.random.coin_flip()))
    pipe.build()

    def run(_: int) -> None:
        for _ in range(len(paths) // batch_size):
            np.array(pipe.run()[0].as_array())

    setattr(run, "images", len(paths) // batch_size * batch_size)  # noqa: B010 (a function has no such attribute for a type checker)
    return run


def contestants(images: ImageList) -> dict[str, Contestant]:
    """All contestants whose packages are installed, by name."""
    paths = [images.path(index) for index in range(len(images))]
    makers = {
        "floor: decode at 1/8": lambda: floor(paths),
        "ours": lambda: ours(paths, "auto"),
        "ours, OpenCV alone": lambda: ours(paths, "cv2"),
        "ours with DALI (CPU)": lambda: ours_with_dali(images),
        "original (numpy, float)": lambda: original(paths),
        "torchvision on Pillow": lambda: torchvision_on_pillow(paths),
        "timm": lambda: timm(paths),
        "DALI (CPU)": lambda: dali(paths),
    }
    made = {}
    for name, make in makers.items():
        try:
            made[name] = make()
        except (ImportError, FlagError) as error:
            print(f"{name}: left out ({error})")
    return made


def compare_threads(images: ImageList, rounds: int) -> None:
    """Prints images/s of each contestant: the median, the spread, and ratios of the rounds' medians."""
    entries = contestants(images)
    rates: dict[str, list[float]] = {name: [] for name in entries}
    cpu_rates: dict[str, list[float]] = {name: [] for name in entries}
    for number in range(rounds + 1):
        for name, run in entries.items():
            started, cpu_started = time.perf_counter(), time.process_time()
            run(number)
            seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
            if number:  # the first round warms up
                count = getattr(run, "images", len(images))
                rates[name].append(count / seconds)
                cpu_rates[name].append(count / cpu_seconds)
    print(f"\n{len(images)} images, one thread, {rounds} rounds")
    print(f"{'':26}images/s: median (lowest to highest)   per CPU-second   of the floor   ours is faster by")
    for name, values in rates.items():
        # Round by round, as a temporary slowdown of the machine affects all of them.
        share = statistics.median(b / a for a, b in zip(rates["floor: decode at 1/8"], values, strict=True))
        gain = statistics.median(a / b for a, b in zip(rates["ours"], values, strict=True))
        spread = f"({min(values):.0f} to {max(values):.0f})"
        print(
            f"{name:26}{statistics.median(values):16.0f} {spread:20}{statistics.median(cpu_rates[name]):17.0f}"
            f"{share:15.2f}{gain:20.2f}"
        )


def uncollected(job: Job, rows: np.ndarray, number: int, begin: multiprocessing.synchronize.Barrier) -> None:
    """A worker that writes images to its own memory and reports to nobody."""
    cv2.setNumThreads(0)

    def make(part: np.ndarray) -> None:
        job.indices.array[0, : len(part)] = part
        job.fill(0, 0, len(part), number)

    make(rows[:4])  # the reader's workers are warm as well
    begin.wait()
    for start in range(0, len(rows), job.indices.array.shape[1]):
        make(rows[start : start + job.indices.array.shape[1]])


def compare_handing_over(images: ImageList, workers: int, rounds: int) -> None:
    """Prints images/s of the whole reader, and of workers whose batches nothing collects."""
    loader_module.available_processors = lambda: workers
    # Several passes over the files, so that start and end do not matter.
    repeats = -(-2000 // len(images))
    longer = ImageList.from_paths(
        [images.path(index) for _ in range(repeats) for index in range(len(images))], [0] * repeats * len(images)
    )
    options = {"batch_size": 64, "training": True, "workers": workers, "read_ahead_images": 1024}
    collected = OpenCVLoader(longer, TrainTransform(SIZE), **options)
    jobs = [OpenCVLoader(longer, TrainTransform(SIZE), **options)._job for _ in range(workers)]
    count = len(collected) * 64
    for _ in collected.epoch(0):
        pass
    rates: dict[str, list[float]] = {"collected": [], "not collected": []}
    context = multiprocessing.get_context("fork")
    for number in range(1, rounds + 1):
        started = time.perf_counter()
        for batch in collected.epoch(number):
            batch.images[0, 0, 0, 0].item()
        rates["collected"].append(count / (time.perf_counter() - started))

        order = longer.shuffled(0, number)[:count]
        begin = context.Barrier(workers + 1)
        processes = [
            context.Process(target=uncollected, args=(job, order[part::workers], number, begin))
            for part, job in enumerate(jobs)
        ]
        for process in processes:
            process.start()
        begin.wait()
        started = time.perf_counter()
        for process in processes:
            process.join()
        rates["not collected"].append(count / (time.perf_counter() - started))
    print(f"\n{workers} worker processes, batches of 64, {rounds} rounds of {count} images: images/s")
    for name, values in rates.items():
        print(f"{name:26}{statistics.median(values):8.0f}{min(values):8.0f}{max(values):8.0f}")
    ratio = statistics.median(a / b for a, b in zip(rates["collected"], rates["not collected"], strict=True))
    print(f"collected / not collected, median of the rounds: {ratio:.3f}")


def memory(pid: int) -> int:
    """Bytes of a process, with shared memory counted proportionally."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Pss:")) * 1024


def measure_list(lines: int, workers: int) -> None:
    """Prints how long a list file takes to load, and the memory of this process and its workers."""
    loader_module.available_processors = lambda: workers
    with tempfile.TemporaryDirectory() as folder:
        image = os.path.join(folder, "image.jpg")
        cv2.imwrite(image, np.zeros((32, 32, 3), np.uint8))
        path = os.path.join(folder, "train_list.txt")
        with open(path, "w") as file:
            for start in range(0, lines, 100_000):
                file.writelines(
                    f"train/n{i % 1000:08}/n{i % 1000:08}_{i}.JPEG {i % 1000}\n"
                    for i in range(start, min(start + 100_000, lines))
                )
        before = memory(os.getpid())
        started = time.perf_counter()
        images = ImageList.from_list_file(path, folder, 1000)
        loaded = time.perf_counter() - started
        # These files do not exist; replace one by an existing file, so that the epoch can begin.
        images.read = lambda index: read_file(image)
        loader = OpenCVLoader(images, TrainTransform(SIZE), 64, True, workers=workers, read_ahead_images=512)
        started = time.perf_counter()
        next(loader.epoch(0))
        first = time.perf_counter() - started
        own, theirs = memory(os.getpid()), sum(memory(process.pid) for process in loader._processes if process.pid)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(f"{len(images):,} lines, {os.path.getsize(path) / 1e6:.0f} MB: loaded in {loaded:.1f} s")
        print(f"shuffled, {workers} workers started, first batch in {first:.1f} s")
        print(
            f"memory: {own / 1e6:.0f} MB here ({before / 1e6:.0f} MB before) and {theirs / 1e6:.0f} MB in the workers, "
            f"{(own + theirs) / 1e6:.0f} MB together; at most {peak / 1e6:.0f} MB here at any time"
        )


def main() -> None:
    parser = LineParser(__doc__)
    parser.add_argument("folder", nargs="?", help="a folder of JPEG files")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--lines", type=int, help="measure a list file with this many lines instead")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    if args.lines:
        measure_list(args.lines, max(4, args.workers))
        return
    with tempfile.TemporaryDirectory() as made_up:
        if not args.folder:
            print("no folder given: using 100 synthetic pictures of 375 x 500")
            write_pictures(made_up, 100)
        images = ImageList.from_folder(args.folder or made_up)
        compare_threads(images, args.rounds)
        compare_handing_over(images, args.workers, args.rounds)


if __name__ == "__main__":
    main()
