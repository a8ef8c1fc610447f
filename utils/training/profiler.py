"""--is_profiler: profiles a few training steps."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from utils.console import is_main_process, log
from utils.files import written_whole

PROFILED_STEPS = 5


class StepProfiler:
    """Profiles five steps, writes a Chrome trace and prints a table of the most expensive operations.

    A context manager: it ends unfinished profiling at the end of the block, as PyTorch would crash at exit otherwise.

    Args:
        folder: for the trace.
        first_step: the first step profiled, counted from the start of this process.
    """

    def __init__(self, folder: str, first_step: int) -> None:
        self.folder = Path(folder)
        self.first_step = first_step
        self._step = 0
        self._running = False
        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        self._profile = profile(activities=activities, record_shapes=True, profile_memory=True)

    def before_step(self) -> None:
        """Called before each step."""
        if self._step == self.first_step:
            self._profile.start()
            self._running = True

    def after_step(self) -> bool:
        """Called after each step; returns whether profiling is over."""
        step = self._step
        self._step += 1
        if step != self.first_step + PROFILED_STEPS - 1:
            return False
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._stop()
        if is_main_process():
            trace = self.folder / f"steps_{self.first_step}_to_{step}.json"
            with written_whole(trace, "--profiler_path") as temporary:
                self._profile.export_chrome_trace(str(temporary))
                if not temporary.is_file():  # PyTorch only prints that the file could not be written
                    raise OSError(f"see above, or {temporary.parent} is full")
            by = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
            log(self._profile.key_averages().table(sort_by=by, row_limit=20))
            log(f"trace of steps {self.first_step} to {step}: {trace} (open it in chrome://tracing or Perfetto)")
        return True

    def _stop(self) -> None:
        if self._running:
            self._profile.stop()
            self._running = False

    def __enter__(self) -> StepProfiler:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop()
