"""Worker processes that turn encoded images into a network's pixels, outside the event loop and its memory.

Each worker has one image at a time, so that a crash affects only the request of that image; another worker replaces
it. A worker gets the file as it was sent, and returns uint8 pixels.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import math
import multiprocessing
import pickle
import signal
import socket
import struct
from functools import lru_cache
from io import BytesIO
from typing import Any

import cv2
import numpy as np

from utils.reading.codec_messages import LISTENING
from utils.reading.decode import UnreadableImage, take_remarks
from utils.reading.transforms import EvalTransform
from utils.serving.refusal import Refusal, try_again
from utils.system import keep_freed_memory, without_script

# Seconds after which a worker is given up: the largest allowed images take a few seconds, and the start takes one.
PATIENCE = 60.0
# Number of processes tried for an image, as long as none has received it.
ATTEMPTS = 3
# Formats whose size Pillow reads from the header; the reader's own limit applies to others.
MEASURED = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "TIFF", "PPM", "JPEG2000", "GIF", "MPO")

# To a worker: the lengths of the transform and of the image, which follow, and whether the image is in base64.
QUESTION = struct.Struct("<IQ?")
# From a worker: 0, height, width and length of the pixels, which follow; or a status, zeros, and the length of the
# reason.
ANSWER = struct.Struct("<HIIQ")
# Most characters of the reason, and bytes that are enough for it as JSON.
SENTENCE, LONGEST = 1000, 8192
# Size of the socket buffer to the other process: room for an image, if the system grants it.
BUFFER = 1 << 20

# A worker keeps the memory of a decoded image up to this size for the next one: enough for most photographs.
KEPT = 32 << 20

# bytes: a file. str: a file in base64, as in JSON.
Encoded = bytes | str


def size_of(data: bytes) -> tuple[int, int] | None:
    """Width and height from a file's header; None if its kind is unknown or it is damaged."""
    from PIL import Image

    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(BytesIO(data), formats=MEASURED) as image:
            return image.size
    except Exception:  # a damaged header may raise anything; the decoder will report it
        return None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def prepared(data: Encoded, transform: EvalTransform, largest: int) -> np.ndarray:
    """An encoded image as a network's pixels.

    Args:
        data: the file.
        transform: prepares the image.
        largest: most pixels that it may have.

    Returns:
        uint8 (height, width, 3).

    Raises:
        Refusal: it is too large, or not a readable image.
    """
    if isinstance(data, str):
        data = from_base64(data)
    size = size_of(data)
    if size is not None and size[0] * size[1] > largest:
        raise Refusal(
            413, f"has {size[0]} x {size[1]} pixels, but an image may have at most {largest} (--max_image_pixels)"
        )
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


def work(channel: socket.socket, taken: Any) -> None:
    """A worker process: decodes images until the server closes the channel.

    Args:
        channel: the connection for images and pixels; see `QUESTION` and `ANSWER`.
        taken: shared with the server: 1 from the moment that the process has received a whole image.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # the server finishes its requests, then ends its workers
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(0)  # the workers are the parallelism
    keep_freed_memory(KEPT)
    try:
        while True:
            how_length, data_length, in_base64 = QUESTION.unpack(_received(channel, QUESTION.size))
            how, data = bytes(_received(channel, how_length)), bytes(_received(channel, data_length))
            taken.value = 1
            _send_answer(channel, data.decode() if in_base64 else data, how)
    except (EOFError, OSError):
        return


def _received(channel: socket.socket, length: int) -> bytearray:
    """Receives this number of bytes; raises `EOFError` if the connection ends."""
    found = bytearray(length)
    left = memoryview(found)
    while left:
        count = channel.recv_into(left)
        if not count:
            raise EOFError
        left = left[count:]
    return found


def _send_answer(channel: socket.socket, data: Encoded, how: bytes) -> None:
    """Decodes an image, and sends its pixels or the reason for a refusal."""
    try:
        pixels = prepared(data, *_unpacked(how))
    except Refusal as error:
        status, values = error.status, [error.sentence[:SENTENCE], error.headers]
    except Exception as error:  # caused by this image only
        status, values = 500, [f"the decoder failed: {type(error).__name__}", {}]
    else:
        channel.sendall(ANSWER.pack(0, *pixels.shape[:2], pixels.nbytes) + pixels.tobytes())
        return
    text = json.dumps(values).encode()
    channel.sendall(ANSWER.pack(status, 0, 0, len(text)) + text)


@lru_cache(16)
def _packed(transform: EvalTransform, largest: int) -> bytes:
    """A network's transform, pickled once by the server and unpickled once per worker."""
    return pickle.dumps((transform, largest))


_unpacked = lru_cache(16)(pickle.loads)


class _Worker:
    """A worker process and the server's end of its channel."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._channel: socket.socket | None = None
        self._taken = context.RawValue("b")
        self.process: Any = None

    def start(self) -> None:
        """Starts the process, also to replace one that has ended."""
        self.end()
        channel, theirs = socket.socketpair()
        with theirs:
            for each in (channel, theirs):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
            channel.setblocking(False)
            self.process = self._context.Process(target=work, args=(theirs, self._taken), daemon=True)
            with without_script():
                self.process.start()
        self._channel = channel

    async def __call__(self, data: Encoded, transform: EvalTransform, largest: int) -> np.ndarray:
        """The pixels of an image; raises `Refusal`. Tries another process if one ends before it has the whole image."""
        loop = asyncio.get_running_loop()
        for _ in range(ATTEMPTS):
            if self._channel is None:
                await asyncio.to_thread(self.start)
            self._taken.value = 0
            timer = loop.call_later(PATIENCE, self.process.kill)
            try:
                return await self._exchange(loop, data, transform, largest)
            except (OSError, EOFError):
                taken, late = self._taken.value, loop.time() >= timer.when()
                await asyncio.to_thread(self.end)
            finally:
                timer.cancel()
            if taken and late:
                raise Refusal(400, f"took longer than {PATIENCE:g} seconds to decode")
            if taken:
                raise try_again(503, "the process that decoded it crashed: send it again")
        raise try_again(503, "no process could be started to decode it: send it again")

    async def _exchange(
        self, loop: asyncio.AbstractEventLoop, data: Encoded, transform: EvalTransform, largest: int
    ) -> np.ndarray:
        """Sends an image and receives its pixels; raises `Refusal`, and `EOFError` or `OSError` if the process ends."""
        assert self._channel is not None
        how, body = _packed(transform, largest), data.encode() if isinstance(data, str) else data
        head = QUESTION.pack(len(how), len(body), isinstance(data, str))
        await loop.sock_sendall(self._channel, b"".join((head, how, body)))
        answer = bytearray(ANSWER.size + max(3 * math.prod(transform.image_size), LONGEST))
        received, length = 0, ANSWER.size
        while received < length:
            count = await loop.sock_recv_into(self._channel, memoryview(answer)[received:])
            if not count:
                raise EOFError
            received += count
            if received >= ANSWER.size:
                length = ANSWER.size + ANSWER.unpack_from(answer)[3]
        status, height, width, _ = ANSWER.unpack_from(answer)
        if status:
            raise Refusal(status, *json.loads(answer[ANSWER.size : length]))
        return np.frombuffer(answer, np.uint8, height * width * 3, ANSWER.size).reshape(height, width, 3)

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
        workers: number of processes; 0: images are decoded in a thread of this process.
        largest: most pixels that an image may have.
    """

    def __init__(self, workers: int, largest: int) -> None:
        self._largest = largest
        self._idle: asyncio.Queue[_Worker] = asyncio.Queue()
        # The server has threads, whose locks a fork would copy in any state; a fork server has none. Windows cannot
        # fork at all.
        can_fork = "forkserver" in multiprocessing.get_all_start_methods()
        context: Any = multiprocessing.get_context("forkserver" if can_fork else "spawn")
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
        """Decodes an image as soon as a worker is free; returns pixels, uint8 (height, width, 3); raises `Refusal`."""
        if not self._workers:
            return await asyncio.to_thread(prepared, data, transform, self._largest)
        worker = await self._idle.get()
        task = asyncio.ensure_future(worker(data, transform, self._largest))
        # The request may be cancelled; the worker is free again only when it has answered.
        task.add_done_callback(lambda done: (self._idle.put_nowait(worker), done.cancelled() or done.exception()))
        return await asyncio.shield(task)

    def close(self) -> None:
        """Ends the workers."""
        for worker in self._workers:
            worker.end()
