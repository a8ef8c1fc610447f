"""Worker processes that turn encoded images into what a network takes, away from the event loop and from its memory.

Each worker has one image at a time, so that its end, whatever caused it, costs no other request than the one whose
image it had; another worker takes its place. What goes to a worker is the file as it came, what comes back uint8
pixels.
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

# Seconds after which a worker is given up: the largest images that are taken need a few, and to start takes it one.
PATIENCE = 60.0
# Processes that are tried for an image, as long as none has taken it.
ATTEMPTS = 3
# What Pillow can tell the size of by the header; others meet the reader's own limit.
MEASURED = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "TIFF", "PPM", "JPEG2000", "GIF", "MPO")

# To a worker: the lengths of what to do and of the image, which follow, and whether that is in base64.
QUESTION = struct.Struct("<IQ?")
# From a worker: 0, height, width and length of the pixels, which follow; or a status, zeros, and the length of why.
ANSWER = struct.Struct("<HIIQ")
# Characters of why at most, and what is enough for it in bytes of JSON.
SENTENCE, LONGEST = 1000, 8192
# Bytes that the system holds of what goes to the other process: an image, if it grants them.
BUFFER = 1 << 20

# Bytes of the largest image, decoded, whose memory a worker keeps for the next: those of most photographs.
KEPT = 32 << 20

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


def work(channel: socket.socket, taken: Any) -> None:
    """A worker process: takes images until nobody sends any more.

    Args:
        channel: where images come from, and pixels go to; see `QUESTION` and `ANSWER`.
        taken: shared with the server: 1 from when the process has the whole of an image.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # the server finishes what it has, and ends its workers then
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
    """So many bytes; raises `EOFError` if there are no more."""
    found = bytearray(length)
    left = memoryview(found)
    while left:
        count = channel.recv_into(left)
        if not count:
            raise EOFError
        left = left[count:]
    return found


def _send_answer(channel: socket.socket, data: Encoded, how: bytes) -> None:
    """Decodes an image, and sends its pixels or why there are none."""
    try:
        pixels = prepared(data, *_unpacked(how))
    except Refusal as error:
        status, values = error.status, [error.sentence[:SENTENCE], error.headers]
    except Exception as error:  # of this image alone
        status, values = 500, [f"the decoder failed: {type(error).__name__}", {}]
    else:
        channel.sendall(ANSWER.pack(0, *pixels.shape[:2], pixels.nbytes) + pixels.tobytes())
        return
    text = json.dumps(values).encode()
    channel.sendall(ANSWER.pack(status, 0, 0, len(text)) + text)


@lru_cache(16)
def _packed(transform: EvalTransform, largest: int) -> bytes:
    """What is done to an image: the server makes it once for each network, and a worker reads it once."""
    return pickle.dumps((transform, largest))


_unpacked = lru_cache(16)(pickle.loads)


class _Worker:
    """A worker process, and its end of the channel."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._channel: socket.socket | None = None
        self._taken = context.RawValue("b")
        self.process: Any = None

    def start(self) -> None:
        """Starts the process, in place of one that has ended."""
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
        """The pixels of an image; raises `Refusal`. It goes to another process if the first ends before it has it."""
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
                raise try_again(503, "the process that decoded it has ended: send it again")
        raise try_again(503, "no process comes up that could decode it: send it again")

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
        workers: processes; 0: images are decoded in a thread of this process.
        largest: pixels that an image may have.
    """

    def __init__(self, workers: int, largest: int) -> None:
        self._largest = largest
        self._idle: asyncio.Queue[_Worker] = asyncio.Queue()
        # The server has threads, which a fork would copy in whatever state they are; its child has none. Windows has no
        # forks at all.
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
        """The pixels of an image, uint8 (height, width, 3), when a worker has had time for it; raises `Refusal`."""
        if not self._workers:
            return await asyncio.to_thread(prepared, data, transform, self._largest)
        worker = await self._idle.get()
        task = asyncio.ensure_future(worker(data, transform, self._largest))
        # Whoever waits may go; the worker is free again when it has answered.
        task.add_done_callback(lambda done: (self._idle.put_nowait(worker), done.cancelled() or done.exception()))
        return await asyncio.shield(task)

    def close(self) -> None:
        """Ends the workers."""
        for worker in self._workers:
            worker.end()
