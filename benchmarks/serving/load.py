"""Measures predict.py --serve_port under load on this machine; takes minutes, so a plain `bench` does not run it.

bash run.sh bench serving/load --model_file=ResNet50_vd/model
python benchmarks/serving/load.py --model_file=ResNet50_vd/model --requests=10000 --seconds=20

    engine       images/s of the network on decoded images, in batches of 16
    predict.py   images/s on files, without its start
    server       images/s at saturation, the client on the same machine; p50 and p99 latency at half that rate
    bad          many requests, a tenth of them bad: lost or wrong answers, memory before and after
    killed       a decoding process is killed under load: the requests that were refused for that
    overload     twice as many clients as allowed: what they are told, how soon, and that the server recovers

Each rate is followed by milliseconds of processor time per image, which hardly change on a busy machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.serving.client import Connection, image_request
from utils.deploy.answering import input_of
from utils.deploy.exported import load_exported
from utils.flags.line_parser import LineParser

ROOT = Path(__file__).resolve().parents[2]
BATCH_SIZE, CLIENTS, PICTURES, COPIES, LIMIT = 16, 32, 64, 8, 128
BAD = [image_request(body) for body in (b"", b"not an image", b"\xff\xd8\xff\xe0 cut short")]
TICK = os.sysconf("SC_CLK_TCK")


def make_pictures(folder: Path, count: int) -> list[bytes]:
    """Images of 500 x 375 pixels: blurred noise, which takes as long to decode as usual photographs."""
    random = np.random.RandomState(0)
    for number in range(count):
        noise = cv2.GaussianBlur(random.randint(0, 256, (375, 500, 3), np.uint8), (5, 5), 2)
        cv2.imwrite(str(folder / f"{number:04d}.jpg"), cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX))  # type: ignore[call-overload]
    return [path.read_bytes() for path in sorted(folder.iterdir())]


def engine_rate(model_file: str, seconds: float) -> tuple[float, float]:
    """Images/s of the network on decoded images, and milliseconds of processor time per image."""
    network = load_exported(model_file, batch_size=BATCH_SIZE)
    prepare = input_of(network)
    pixels = torch.zeros((BATCH_SIZE, *network.description.image_size, 3), dtype=torch.uint8)
    network(prepare(pixels))
    done, start, cost = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds:
        network(prepare(pixels))
        done += BATCH_SIZE
    return done / (time.perf_counter() - start), 1000 * (time.process_time() - cost) / done


def predict_rate(model_file: str, folder: Path, workers: int) -> tuple[float, float, list[dict[str, list[float]]]]:
    """The same for predict.py, minus its start, which a run on few images measures; and its answers."""
    many = folder.parent / "many"
    many.mkdir()
    for path in folder.iterdir():
        for copy in range(COPIES):
            os.link(path, many / f"{copy}_{path.name}")

    def run(images: Path) -> tuple[float, float, list[str]]:
        command = [sys.executable, "predict.py", f"--model_file={model_file}", f"--image_path={images}"]
        command += [f"--batch_size={BATCH_SIZE}", f"--reader_thread={workers}", "--topk=5"]
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, output.splitlines()

    few_seconds, few_cost, few = run(folder)
    many_seconds, many_cost, all_lines = run(many)
    if many_seconds <= few_seconds:
        raise SystemExit("predict.py took no longer for more images: this machine is too busy to measure anything")
    more = len(all_lines) - len(few)
    answers = [json.loads(line.partition("\t")[2]) for line in few]
    return more / (many_seconds - few_seconds), 1000 * (many_cost - few_cost) / more, answers


@contextmanager
def server(model_file: str, workers: int) -> Iterator[tuple[int, str]]:
    """Starts a server and yields its process id and address; ends it by SIGTERM, and checks that it ends cleanly."""
    command = [
        sys.executable,
        "predict.py",
        f"--model_file={model_file}",
        "--serve_port=0",
        "--topk=5",
        f"--serve_requests={LIMIT}",
    ]
    command += [f"--batch_size={BATCH_SIZE}", f"--reader_thread={workers}", f"--serve_requests={LIMIT}"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found, "the server has not started"
        yield process.pid, found[0]
    finally:
        process.send_signal(signal.SIGTERM)
        print(f"  SIGTERM: exit code {process.wait(60)}")


def memory_of(process: int) -> float:
    """Memory of a process and its children in MB, with shared memory counted once."""
    kilobytes = 0
    for each in (process, *descendants(process)):
        text = Path(f"/proc/{each}/smaps_rollup").read_text()
        kilobytes += int(re.findall(r"Pss:\s+(\d+)", text)[0])
    return kilobytes / 1024


def descendants(process: int) -> list[int]:
    """All descendants of a process, the youngest last."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, last = [], {process}
    while last := {child for child, parent in parents.items() if parent in last}:
        found += sorted(last)
    return found


def cost_of(process: int) -> float:
    """Processor time of a process, in seconds."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


async def saturate(address: str, requests: list[bytes], seconds: float) -> tuple[int, float]:
    """Images and seconds with enough clients to keep the server busy."""
    done, end = 0, time.perf_counter() + seconds

    async def one(number: int) -> None:
        nonlocal done
        with closing(Connection(address)) as connection:
            while time.perf_counter() < end:
                status, _ = await connection.ask(requests[number % len(requests)])
                assert status == 200
                done += 1
                number += CLIENTS

    start = time.perf_counter()
    await asyncio.gather(*map(one, range(CLIENTS)))
    return done, time.perf_counter() - start


async def paced(address: str, requests: list[bytes], rate: float, seconds: float) -> list[float]:
    """Seconds of each answer when requests come at a constant rate, even before the last one is answered."""
    idle: list[Connection] = []

    async def one(number: int) -> float:
        connection = idle.pop() if idle else Connection(address)
        start = time.perf_counter()
        status, _ = await connection.ask(requests[number % len(requests)])
        assert status == 200
        idle.append(connection)
        return time.perf_counter() - start

    tasks, start = [], time.perf_counter()
    for number in range(max(2, int(rate * seconds))):
        await asyncio.sleep(max(0.0, start + number / rate - time.perf_counter()))
        tasks.append(asyncio.create_task(one(number)))
    times = list(await asyncio.gather(*tasks))
    for connection in idle:
        connection.close()
    return times


async def mixed(
    address: str, requests: list[bytes], expected: list[dict[str, list[float]]], count: int, kill: int | None = None
) -> Counter[str]:
    """The outcomes of requests, a tenth of them bad; kills a process, if one is given, after a third of them."""
    fates: Counter[str] = Counter()
    numbers = iter(range(count))

    async def one() -> None:
        with closing(Connection(address)) as connection:
            for number in numbers:
                if kill is not None and number == count // 3:
                    os.kill(descendants(kill)[-1], signal.SIGKILL)
                bad, which = number % 10 == 9, number % len(requests)
                try:
                    status, body = await connection.ask(BAD[number % len(BAD)] if bad else requests[which])
                except (OSError, EOFError) as error:
                    fates[f"lost: {type(error).__name__}"] += 1
                    continue
                if bad or status != 200:
                    fates[f"{'bad' if bad else 'good'}: {status}"] += 1
                    continue
                (found,) = json.loads(body)["predictions"]
                same = found["class"] == expected[which]["class"]
                same &= np.allclose(found["score"], expected[which]["score"], atol=1e-5)
                fates["good: 200" if same else "wrong"] += 1

    await asyncio.gather(*(one() for _ in range(CLIENTS)))
    return fates


async def overload(address: str, requests: list[bytes], clients: int, seconds: float) -> tuple[Counter[int], float]:
    """Statuses of the answers to more clients than --serve_requests allows, and the slowest refusal's seconds."""
    statuses: Counter[int] = Counter()
    slowest, end = 0.0, time.perf_counter() + seconds

    async def one(number: int) -> None:
        nonlocal slowest
        with closing(Connection(address)) as connection:
            while time.perf_counter() < end:
                start = time.perf_counter()
                status, _ = await connection.ask(requests[number % len(requests)])
                statuses[status] += 1
                if status != 200:
                    slowest = max(slowest, time.perf_counter() - start)
                    await asyncio.sleep(0.5)

    await asyncio.gather(*map(one, range(clients)))
    return statuses, slowest


def measure_server(address: str, process: int, requests: list[bytes], seconds: float) -> float:
    """Prints images/s at saturation and their processor time; returns images/s."""
    asyncio.run(saturate(address, requests, 2))
    processes = [os.getpid(), process, *descendants(process)]
    before = [cost_of(each) for each in processes]
    done, took = asyncio.run(saturate(address, requests, seconds))
    client, server, *workers = (
        1000 * (cost_of(each) - was) / done for each, was in zip(processes, before, strict=True)
    )
    print(f"server       {done / took:8.1f} images/s  {client + server + sum(workers):6.2f} ms", end="")
    print(f": the server's process {server:.2f}, decoding {sum(workers):.2f}, the client {client:.2f}")
    return done / took


def main() -> None:
    parser = LineParser(__doc__)
    parser.add_argument("--model_file", required=True)
    parser.add_argument("--requests", type=int, default=10000, help="of the part with bad ones")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement")
    parser.add_argument("--reader_thread", type=int, default=2, help="decoding processes")
    args = parser.parse_args()
    model_file = os.path.abspath(args.model_file)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "few"
        folder.mkdir()
        pictures = make_pictures(folder, PICTURES)
        engine, cost = engine_rate(model_file, args.seconds)
        print(f"engine       {engine:8.1f} images/s  {cost:6.2f} ms")
        predicted, cost, expected = predict_rate(model_file, folder, args.reader_thread)
        print(f"predict.py   {predicted:8.1f} images/s  {cost:6.2f} ms")
    requests = [image_request(picture) for picture in pictures]
    with server(model_file, args.reader_thread) as (process, address):
        rate = measure_server(address, process, requests, args.seconds)
        print(f"  {rate / engine:.2f} of the engine, {rate / predicted:.2f} of predict.py")
        cuts = statistics.quantiles(asyncio.run(paced(address, requests, rate / 2, args.seconds)), n=100)
        print(f"  at half of it: p50 {1000 * cuts[49]:.1f} ms, p99 {1000 * cuts[98]:.1f} ms")
        before = memory_of(process)
        fates = asyncio.run(mixed(address, requests, expected, args.requests))
        print(f"bad          {dict(fates)}; memory {before:.0f} MB before, {memory_of(process):.0f} MB after")
        print(f"killed       {dict(asyncio.run(mixed(address, requests, expected, args.requests // 10, process)))}")
        statuses, slowest = asyncio.run(overload(address, requests, 2 * LIMIT, args.seconds))
        print(f"overload     {dict(statuses)}, the slowest refusal after {1000 * slowest:.0f} ms", end="; ")
        print(f"afterwards {dict(asyncio.run(mixed(address, requests, expected, len(requests))))}")


if __name__ == "__main__":
    main()
