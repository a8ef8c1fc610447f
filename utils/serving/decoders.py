"""Worker processes that turn encoded images into what a network takes, away from the event loop and from its memory.

Each worker has one image at a time, so that its end, whatever caused it, costs no other request than the one whose
image it had; another worker takes its place. What goes to a worker is the file as it came, what comes back uint8
pixels.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import multiprocessing
import signal
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from multiprocessing.connection import Connection
from typing import Any

import cv2
import numpy as np

from utils.reading.codec_messages import LISTENING
from utils.reading.decode import UnreadableImage, take_remarks
from utils.reading.transforms import EvalTransform
from utils.serving.refusal import Refusal, try_again

# Seconds after which a worker is given up: the largest images that are taken need a few.
PATIENCE = 60.0
# And after which one that has not taken an image is: to start takes it one or two.
STARTING = 60.0
# Processes that are tried for an image, as long as none has taken it.
ATTEMPTS = 3
# What Pillow can tell the size of by the header; others meet the reader's own limit.
MEASURED = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "TIFF", "PPM", "JPEG2000", "GIF", "MPO")

# What a worker says before it decodes: if it ends then, the image may have been why.
TAKEN = True

# bytes: a file. str: the same in base64, as JSON has it.
Encoded = bytes | str


def size_of(data: bytes) -> tuple[int, int] | None:
    """Width and height by a file's header; None if it is of no kind that is known, or damaged."""
    from PIL import Image

    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(BytesIO(data), formats=MEASURED) as image:
            return image.size
    except Exception:  # whatever a damaged header makes of the parser: the decoder will say what is wrong
        return None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def prepared(data: Encoded, transform: EvalTransform, largest: int) -> np.ndarray:
    """An encoded image as a network's pixels.

    Args:
        data: the file.
        transform: what is done to the image.
        largest: pixels that it may have.

    Returns:
        uint8 (height, width, 3).

    Raises:
        Refusal: it is too large, or no image that can be read.
    """
    if isinstance(data, str):
        data = from_base64(data)
    size = size_of(data)
    if size is not None and size[0] * size[1] > largest:
        raise Refusal(413, f"has {size[0]} x {size[1]} pixels, and an image may have {largest} (--max_image_pixels)")
    try:
        with LISTENING:
            return transform.decode(data, "image")
    except UnreadableImage as error:
        raise Refusal(400, error.reason) from None
    except cv2.error as error:
        raise Refusal(400, f"OpenCV cannot process it: {error.err}") from None
    except MemoryError:
        raise try_again(503, "there is not enough memory to decode it") from None
    finally:
        take_remarks()


def from_base64(text: str) -> bytes:
    """A file of a JSON request, perhaps as a data URL; raises `Refusal`."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(400, "is not in base64") from None


def work(channel: Connection) -> None:
    """A worker process: takes images until nobody sends any more."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the server finishes what it has, and ends its workers then
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(0)  # the workers are the parallelism
    while True:
        try:
            data, transform, largest = channel.recv()
            channel.send(TAKEN)
        except (EOFError, OSError):
            return
        try:
            answer: np.ndarray | tuple[int, str, dict[str, str]] = prepared(data, transform, largest)
        except Refusal as error:
            answer = error.status, error.sentence, error.headers
        except Exception as error:  # of this image alone
            answer = 500, f"the decoder failed: {type(error).__name__}", {}
        try:
            channel.send(answer)
        except OSError:
            return


class _Worker:
    """A worker process, started when it is first needed, and its end of the channel."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._channel: Connection | None = None
        self.process: Any = None

    def start(self) -> None:
        """Starts the process, in place of one that has ended."""
        self.end()
        self._channel, theirs = self._context.Pipe()
        self.process = self._context.Process(target=work, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    def __call__(self, *task: Any) -> np.ndarray:
        """The pixels of an image; raises `Refusal`. Blocks."""
        channel = self._given(task)
        try:
            if not channel.poll(PATIENCE):
                self.end()
                raise Refusal(400, f"took longer than {PATIENCE:g} seconds to decode")
            answer = channel.recv()
        except (OSError, EOFError):
            self.end()
            raise try_again(503, "the process that decoded it has ended: send it again") from None
        if isinstance(answer, tuple):
            raise Refusal(*answer)
        return answer

    def _given(self, task: tuple[Any, ...]) -> Connection:
        """The channel of a process that has taken the task: another one, if the first ended before."""
        for _ in range(ATTEMPTS):
            try:
                if self._channel is None:
                    self.start()
                channel = self._channel
                assert channel is not None
                channel.send(task)
                if channel.poll(STARTING) and channel.recv() is TAKEN:
                    return channel
            except (OSError, EOFError):
                pass
            self.end()
        raise try_again(503, "no process comes up that could decode it: send it again")

    def end(self) -> None:
        """Ends the process."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None


class Decoders:
    """The decoders of a server.

    Args:
        workers: processes; 0: images are decoded in a thread of this process.
        largest: pixels that an image may have.
    """

    def __init__(self, workers: int, largest: int) -> None:
        self._largest = largest
        self._threads = ThreadPoolExecutor(max(1, workers), "decoder")
        self._idle: asyncio.Queue[Any] = asyncio.Queue()
        self._workers: list[_Worker] = []
        if not workers:
            self._idle.put_nowait(prepared)
            return
        # The server has threads, which a fork would copy in whatever state they are; its child has none. Windows has no
        # forks at all.
        can_fork = "forkserver" in multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("forkserver" if can_fork else "spawn")
        if can_fork:
            context.set_forkserver_preload([__name__])
        self._workers = [_Worker(context) for _ in range(workers)]
        for worker in self._workers:
            worker.start()
            self._idle.put_nowait(worker)

    @property
    def processes(self) -> list[int]:
        """Of the workers that are up."""
        return [worker.process.pid for worker in self._workers if worker.process is not None]

    async def __call__(self, data: Encoded, transform: EvalTransform) -> np.ndarray:
        """The pixels of an image, uint8 (height, width, 3), when a worker has had time for it; raises `Refusal`."""
        worker = await self._idle.get()
        loop = asyncio.get_running_loop()
        task = loop.run_in_executor(self._threads, worker, data, transform, self._largest)
        # Whoever waits may go; the worker is free again when it has answered.
        task.add_done_callback(lambda done: (self._idle.put_nowait(worker), done.cancelled() or done.exception()))
        return await asyncio.shield(task)

    def close(self) -> None:
        """Ends the workers."""
        for worker in self._workers:
            worker.end()
        self._threads.shutdown(wait=False, cancel_futures=True)
