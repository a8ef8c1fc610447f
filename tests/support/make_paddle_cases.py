"""Asks a real PaddlePaddle what its operators do: programs of one operator or two, and what they answer.

    python tests/support/make_paddle_cases.py tests/fixtures/paddle    (with PaddlePaddle 1.8, 2.6 or 3.3)

Run by hand, with each of these versions. Writes FOLDER/operators_VERSION.tar.xz: per case NAME/program, NAME/params and
NAME/answers.npz (out0, out1, ...: what PaddlePaddle answers to `paddle_given.given`). The tests read these files, and
need no PaddlePaddle.
"""

import io
import os
import sys
import tarfile
import tempfile

import numpy as np
import paddle
from paddle_given import given

VERSION = paddle.__version__
FLUID = VERSION.startswith("1.")

if FLUID:
    from paddle_cases_fluid import CASES
else:
    from paddle_cases import CASES


def without_callstack(data):
    """A ProgramDesc without the source lines of this machine."""
    if FLUID:
        from paddle.fluid.proto import framework_pb2
    else:
        from paddle.base.proto import framework_pb2
    program = framework_pb2.ProgramDesc()
    program.ParseFromString(data)
    for block in program.blocks:
        for operation in block.ops:
            kept = [
                attribute for attribute in operation.attrs if attribute.name not in ("op_callstack", "op_namescope")
            ]
            del operation.attrs[:]
            operation.attrs.extend(kept)
    return program.SerializeToString()


def export(build, arrays, folder):
    """Program and parameters of a case, and its answers."""
    if FLUID:
        return export_fluid(build, arrays, folder)
    main, start = paddle.static.Program(), paddle.static.Program()
    with paddle.static.program_guard(main, start):
        paddle.seed(1)
        feeds = [paddle.static.data(key, [-1, *array.shape[1:]], str(array.dtype)) for key, array in arrays.items()]
        outputs = build(*feeds)
        outputs = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
        executor = paddle.static.Executor(paddle.CPUPlace())
        executor.run(start)
        path = os.path.join(folder, "case")
        paddle.static.save_inference_model(path, feeds, outputs, executor, program=main)
        answers = executor.run(main, arrays, outputs)
    contents = {}
    for name in os.listdir(folder):
        with open(os.path.join(folder, name), "rb") as file:
            contents[name.split(".")[-1]] = file.read()
    program = contents["json"] if "json" in contents else without_callstack(contents["pdmodel"])
    return program, contents.get("pdiparams", b""), answers


def export_fluid(build, arrays, folder):
    fluid = paddle.fluid
    main, start = fluid.Program(), fluid.Program()
    main.random_seed = start.random_seed = 1
    executor = fluid.Executor(fluid.CPUPlace())
    with fluid.program_guard(main, start), fluid.unique_name.guard(), fluid.scope_guard(fluid.Scope()):
        feeds = [fluid.data(key, [-1, *array.shape[1:]], str(array.dtype)) for key, array in arrays.items()]
        outputs = build(*feeds)
        outputs = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
        executor.run(start)
        answers = executor.run(main.clone(for_test=True), arrays, outputs)
        fluid.io.save_inference_model(
            folder, list(arrays), outputs, executor, main.clone(for_test=True), "model", "params"
        )
    parameters = b""
    if os.path.exists(os.path.join(folder, "params")):
        with open(os.path.join(folder, "params"), "rb") as file:
            parameters = file.read()
    with open(os.path.join(folder, "model"), "rb") as file:
        return without_callstack(file.read()), parameters, answers


def add(archive, name, data):
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))


def main():
    if not FLUID:
        paddle.enable_static()
    target = os.path.join(sys.argv[1], f"operators_{'.'.join(VERSION.split('.')[:2])}.tar.xz")
    only = sys.argv[2:]
    os.makedirs(sys.argv[1], exist_ok=True)
    failed = []
    with tarfile.open(target, "w:xz", preset=9) as archive:
        for name, (kinds, build) in CASES.items():
            if only and name not in only:
                continue
            arrays = given(name, kinds)
            try:
                with tempfile.TemporaryDirectory() as folder:
                    program, parameters, answers = export(build, arrays, folder)
            except Exception as error:
                reason = [line for line in str(error).splitlines() if line.strip()][-1:] or [""]
                failed.append(f"{name}: {type(error).__name__} {reason[0][:150]}")
                continue
            answer = io.BytesIO()
            np.savez(answer, **{f"out{index}": value for index, value in enumerate(answers)})
            add(archive, f"{name}/program", program)
            add(archive, f"{name}/params", parameters)
            add(archive, f"{name}/answers.npz", answer.getvalue())
    print(f"{len(CASES) - len(failed)} cases, {os.path.getsize(target)} bytes in {target}; not in {VERSION}:")
    print("\n".join(failed))


if __name__ == "__main__":
    main()
