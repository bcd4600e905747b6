"""Worker processes that read result files: started, asked, limited and ended from here.

Results come from strangers' machines, and decoders have faults. So each file is decoded in a process with
limits on memory and time, which opens only that file (:mod:`.isolation`). Whatever happens to the process
becomes an error about the file.

One file, since a process, its limits and the pool are one protocol with :mod:`.worker`.
"""

from __future__ import annotations

import atexit
import json
import mmap
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple
from pathlib import Path
from time import monotonic, sleep
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import STILL_RETRIEVABLE, ConfigurationError
from . import limits
from .containers import BrokenMediaError
from .limits import TooLargeError

Source: TypeAlias = bytes | Path

SLOTS = 4
SLOT_BYTES = 4 * 2**20

START_SECONDS = 120.0
BASE_SECONDS = 15.0
"""How long a file may take that declares no pixels."""

BYTES_PER_SECOND = 4 * 2**20
"""The slowest decoding of pixels that is waited for."""

LONGEST_SECONDS = 900.0
MOST_WORKERS = 8
"""How many files are read at once; as many again where a file has waited, so that slow ones don't stop it."""

PATIENCE_SECONDS = 1.0
IDLE_WORKERS = min(4, os.cpu_count() or 1)
IDLE_SECONDS = 60.0
_WATCH_SECONDS = 0.1
_LONGEST_MESSAGE = 32 * 2**20
_ENDED = "the process that decodes it has ended"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_SENDS_FILES = hasattr(socket, "AF_UNIX") and hasattr(socket, "send_fds")
_PROGRAM = (
    "import sys; sys.path[:] = sys.argv[3:]; "
    "from xalora_client.media.worker import main; main(*sys.argv[1:3])"
)


def ask(operation: str, source: Source, **arguments: Any) -> Any:
    """Have a worker do one operation on a file, another one where it ends, and give its value. Blocking.

    Raises:
        TooLargeError: It takes more memory or time than allowed.
        BrokenMediaError: The file is broken.
        ConfigurationError: No worker can be started.
        OSError: The file can't be opened.
    """
    try:
        return _value(operation, source, arguments)
    except WorkerEndedError:
        pass
    # That one was killed says little of the file: it may have been the largest process when memory ran out.
    try:
        return _value(operation, source, arguments)
    except WorkerEndedError as error:
        raise WorkerEndedError(f"{_ENDED} twice, for want of memory perhaps") from error


def _value(operation: str, source: Source, arguments: dict[str, Any]) -> Any:
    with _asked(operation, source, arguments) as reply:
        for _ in reply:
            pass
        return reply.value


def images(operation: str, source: Source, **arguments: Any) -> Iterator[DecodedImage]:
    """The images that a worker decodes from a file, each valid until the next is asked for.

    Raises:
        BrokenMediaError, OSError: As for :func:`ask`.
    """
    with _asked(operation, source, arguments) as reply:
        yield from reply


def streamed(operation: str, source: Source, **arguments: Any) -> Iterator[npt.NDArray[Any]]:
    """The images that a worker decodes from a file, each whole, ``[H, W, C]``, uint8 or uint16.

    The caller takes as long as it likes between two: only the decoding of each is limited in time. The worker
    waits meanwhile, with a few images decoded.

    Raises:
        BrokenMediaError, OSError: As for :func:`ask`.
    """
    with _asked(operation, source, arguments) as reply:
        for image in reply:
            whole = image.stored()
            with reply.resting():
                yield whole


class DecodedImage:
    """An image whose rows arrive from a worker, once.

    ``channels`` is 1, 3 or 4; ``maximum`` is the value of full brightness, 255 or 65535.
    """

    def __init__(self, reply: _Reply, shape: tuple[int, int, int], maximum: int) -> None:
        self.height, self.width, self.channels = shape
        self.maximum = maximum
        self._reply = reply

    def write_to(self, out: npt.NDArray[np.float32]) -> None:
        """Fill ``out``, float32 ``[height, width, 3 or 4]``, with values in 0..1.

        Missing alpha becomes 1; alpha is dropped where ``out`` has three channels.
        """
        target = out
        if out.shape[2] == 4 and self.channels != 4:
            out[..., 3] = 1.0
            target = out[..., :3]
        for start, rows in self._reply.rows_of(self):
            np.divide(
                rows[..., : target.shape[2]],
                self.maximum,
                out=target[start : start + len(rows)],
                dtype=np.float32,
            )

    def stored(self) -> npt.NDArray[Any]:
        """The whole image ``[height, width, channels]``, uint8 or uint16."""
        dtype = np.uint8 if self.maximum == 255 else np.uint16
        whole: npt.NDArray[Any] = np.empty((self.height, self.width, self.channels), dtype)
        for start, rows in self._reply.rows_of(self):
            whole[start : start + len(rows)] = rows
        return whole


class WorkerEndedError(TooLargeError):
    """The process that decodes the file has ended, as the system ends one where memory runs out."""


class _NonsenseError(Exception):
    """The worker says what none of ours does."""


class _Reply:
    """The messages of a worker about one file.

    Whatever is wrong with the worker ends it, and raises TooLargeError.
    """

    def __init__(self, worker: _Worker, deadline: _Deadline) -> None:
        self.value: Any = None
        self._worker = worker
        self._deadline = deadline
        self._ended = False

    def begin(self, operation: str, file: BinaryIO, arguments: dict[str, Any]) -> None:
        """Send the request, once the worker has started."""
        if not self._worker.has_started:
            try:
                self._worker.await_start()
            except (_NonsenseError, OSError, ValueError, LookupError, TypeError) as error:
                raise ConfigurationError(
                    f"The process that decodes results ({sys.executable}) does not start",
                    money=STILL_RETRIEVABLE,
                    next_step="See that this Python runs and has numpy, Pillow and av; then fetch it again.",
                ) from error
            self._deadline.restart(BASE_SECONDS)
        with self._talking():
            self._worker.request(operation, file, arguments)

    def __iter__(self) -> Iterator[DecodedImage]:
        while (message := self._next()) is not None:
            if (image := self._image(message)) is not None:
                yield image

    def rows_of(self, image: DecodedImage) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """The rows of an image that has just begun, each block valid until the next is asked for."""
        done = 0
        while done < image.height:
            message = self._next()
            with self._talking():
                if message is None:
                    raise _NonsenseError
                slot, start, count = message["rows"]
                if slot not in range(SLOTS) or start != done or not 0 < count <= image.height - done:
                    raise _NonsenseError
                dtype = np.dtype(np.uint8 if image.maximum == 255 else "<u2")
                rows: npt.NDArray[Any] = np.ndarray(
                    (count, image.width, image.channels), dtype, self._worker.slot(slot)
                )
            yield start, rows
            with self._talking():
                self._worker.free(slot)
            done += count

    @contextmanager
    def resting(self) -> Iterator[None]:
        """For the length of a ``with`` block nothing is asked of the worker, and no time counts."""
        self._deadline.cancel()
        try:
            yield
        finally:
            self._deadline.restart(BASE_SECONDS)

    def finish(self) -> None:
        """Let the worker stop where the caller has left."""
        if self._ended:
            return
        with suppress(BrokenMediaError):
            with self._talking():
                self._worker.stop()
            while (message := self._next()) is not None:
                self._image(message)

    def _image(self, message: dict[str, Any]) -> DecodedImage | None:
        """The image that begins; None for rows that nobody wants."""
        with self._talking():
            if "rows" in message:
                self._worker.free(message["rows"][0])
                return None
            width, height, channels, maximum = (int(value) for value in message["image"])
            if width < 1 or height < 1 or channels not in {1, 3, 4} or maximum not in {255, 65535}:
                raise _NonsenseError
            return DecodedImage(self, (height, width, channels), maximum)

    def _next(self) -> dict[str, Any] | None:
        while not self._ended:
            with self._talking():
                message = self._worker.receive()
                if "work" in message:
                    self._deadline.extend(float(message["work"]))
                    continue
                if "rows" in message or "image" in message:
                    return message
                self._ended = True
                if "too_large" in message:
                    raise TooLargeError(_clean(message["too_large"]))
                if "broken" in message:
                    raise BrokenMediaError(_clean(message["broken"]))
                self.value = message["value"]
        return None

    @contextmanager
    def _talking(self) -> Iterator[None]:
        try:
            yield
        except BrokenMediaError:
            raise
        except (_NonsenseError, OSError, ValueError, TypeError, LookupError, OverflowError) as error:
            self._ended = True
            self._worker.kill()
            if self._deadline.has_passed:
                raise TooLargeError("decoding it takes longer than allowed") from error
            raise WorkerEndedError(f"{_ENDED}, for want of memory perhaps") from error


class _Deadline:
    """Ends a worker that takes too long; a file that declares pixels gets time for them."""

    def __init__(self, worker: _Worker, seconds: float) -> None:
        self._worker = worker
        self.has_passed = False
        self._work = 0.0
        self.restart(seconds)

    def extend(self, work: float) -> None:
        if work > self._work:
            self._work = work
            self.restart(min(BASE_SECONDS + work / BYTES_PER_SECOND, LONGEST_SECONDS))

    def restart(self, seconds: float) -> None:
        _watch.call_in(seconds, self, self._end)

    def cancel(self) -> None:
        _watch.forget(self)

    def _end(self) -> None:
        self.has_passed = True
        self._worker.kill()


class _Watch:
    """Calls functions later, on one thread: a timer for each would start a thread for each file."""

    def __init__(self) -> None:
        self._due: dict[object, tuple[float, Callable[[], None]]] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def call_in(self, seconds: float, owner: object, function: Callable[[], None]) -> None:
        """Call a function once, instead of the one that was set for this owner before."""
        with self._changed:
            self._due[owner] = (monotonic() + seconds, function)
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="xalora-watch", daemon=True)
                thread.start()
                self._thread = thread
            elif len(self._due) == 1:
                self._changed.notify()

    def forget(self, owner: object) -> None:
        with self._changed:
            self._due.pop(owner, None)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._due:
                    self._changed.wait()
                late = [owner for owner, (when, _) in self._due.items() if when <= monotonic()]
                functions = [self._due.pop(owner)[1] for owner in late]
            for function in functions:
                function()
            sleep(_WATCH_SECONDS)


@contextmanager
def _asked(operation: str, source: Source, arguments: dict[str, Any]) -> Iterator[_Reply]:
    with _as_file(source) as file, _pool.worker() as worker:
        deadline = _Deadline(worker, START_SECONDS if not worker.has_started else BASE_SECONDS)
        reply = _Reply(worker, deadline)
        try:
            reply.begin(operation, file, arguments)
            yield reply
            reply.finish()
        except GeneratorExit:  # the caller wants no more images
            reply.finish()
            raise
        finally:
            deadline.cancel()


@contextmanager
def _as_file(source: Source) -> Iterator[BinaryIO]:
    if isinstance(source, Path):
        with source.open("rb") as file:
            yield file
        return
    named = _temporary_file()
    try:
        named.write(source)
        named.flush()
        with Path(named.name).open("rb") as file:
            yield file
    finally:
        _closed(named)


def _temporary_file() -> Any:
    # Windows opens no file twice that removes itself.
    return tempfile.NamedTemporaryFile(delete=os.name != "nt")


def _closed(file: Any) -> None:
    file.close()
    if os.name == "nt":
        Path(file.name).unlink(missing_ok=True)


class _Worker:
    """One worker process and the memory shared with it.

    Attributes:
        isolated: What denies it files, network and programs, see :func:`.isolation.isolate`.
        has_started: Whether it has taken its limits on.
        is_between_requests: Whether it waits for a request.
    """

    def __init__(self) -> None:
        self.isolated: list[str] = []
        self.is_between_requests = False
        self.has_started = False
        self._ring_file = self._new_ring()
        self._ring = mmap.mmap(self._ring_file.fileno(), SLOTS * SLOT_BYTES)
        ring, passed, files = self._ring_file.name, [], ""
        self._files: socket.socket | None = None
        theirs: socket.socket | None = None
        if _SENDS_FILES:
            self._files, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            passed = [self._ring_file.fileno(), theirs.fileno()]
            ring, files = (str(each) for each in passed)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _PROGRAM, str(ring), files, *_import_paths()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=os.sep,
                env=_environment(),
                pass_fds=passed if _SENDS_FILES else (),
                start_new_session=True,  # Ctrl-C is for the parent, which ends its workers
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        finally:
            if theirs is not None:
                theirs.close()

    @staticmethod
    def _new_ring() -> Any:
        if _SENDS_FILES and hasattr(os, "memfd_create"):
            ring: Any = os.fdopen(os.memfd_create("xalora-pixels"), "r+b")
        else:
            ring = _temporary_file()
        ring.truncate(SLOTS * SLOT_BYTES)
        return ring

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def await_start(self) -> None:
        self.isolated = list(self.receive()["isolated"])
        self.has_started = True

    def request(self, operation: str, file: BinaryIO, arguments: dict[str, Any]) -> None:
        message: dict[str, Any] = {
            "do": operation,
            "with": arguments,
            "limits": astuple(limits.in_force()),
        }
        self.is_between_requests = False
        if self._files is not None:
            socket.send_fds(self._files, [b"f"], [file.fileno()])
        else:
            message["path"] = file.name
        self._send(json.dumps(message).encode())

    def receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline(_LONGEST_MESSAGE)
        try:
            message = json.loads(line)
        except RecursionError:
            raise _NonsenseError from None
        if not isinstance(message, dict):
            raise _NonsenseError
        if message.keys() & {"value", "broken", "too_large"}:
            self.is_between_requests = True
        return message

    def slot(self, slot: int) -> memoryview:
        return memoryview(self._ring)[slot * SLOT_BYTES : (slot + 1) * SLOT_BYTES]

    def free(self, slot: int) -> None:
        self._send(str(int(slot)).encode())

    def stop(self) -> None:
        self._send(b"stop")

    def _send(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")
        self._process.stdin.flush()

    def rest(self) -> None:
        _watch.call_in(IDLE_SECONDS, self, lambda: _pool.retire(self))

    def wake(self) -> None:
        _watch.forget(self)

    def kill(self) -> None:
        with suppress(OSError):
            self._process.kill()

    def close(self) -> None:
        self.wake()
        self.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        if self._files is not None:
            self._files.close()
        with suppress(BufferError):
            self._ring.close()
        _closed(self._ring_file)


class _Pool:
    """The workers of this process: some rest between two requests, and not too many work at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(MOST_WORKERS)
        self._more_places = threading.BoundedSemaphore(MOST_WORKERS)
        self._resting: list[_Worker] = []
        self._all: set[_Worker] = set()
        # A host that loads this package anew drops the pool.
        self.ending = weakref.finalize(self, _close_all, self._all)
        self.ending.atexit = False

    @contextmanager
    def worker(self) -> Iterator[_Worker]:
        places = self._places
        if not places.acquire(timeout=PATIENCE_SECONDS):
            places = self._more_places
            places.acquire()
        try:
            worker = self._taken()
            try:
                yield worker
            finally:
                self._given_back(worker)
        finally:
            places.release()

    def _taken(self) -> _Worker:
        with self._lock:
            while self._resting:
                worker = self._resting.pop()
                worker.wake()
                if not worker.has_ended:
                    return worker
                self._all.discard(worker)
                worker.close()
        worker = _Worker()
        with self._lock:
            self._all.add(worker)
        return worker

    def _given_back(self, worker: _Worker) -> None:
        with self._lock:
            may_rest = worker.is_between_requests and not worker.has_ended
            if may_rest and len(self._resting) < IDLE_WORKERS:
                self._resting.append(worker)
                worker.rest()
                return
            self._all.discard(worker)
        worker.close()

    def retire(self, worker: _Worker) -> None:
        """End a worker that has rested for long."""
        with self._lock:
            if worker not in self._resting:
                return
            self._resting.remove(worker)
            self._all.discard(worker)
        worker.close()

    def pids(self) -> list[int]:
        """The processes there are."""
        with self._lock:
            return [worker.pid for worker in self._all]

    def kill_all(self) -> None:
        """End all workers, as this process ends."""
        with self._lock:
            for worker in self._all:
                worker.kill()


def _close_all(workers: set[_Worker]) -> None:
    for worker in list(workers):
        worker.close()


def _clean(clause: object) -> str:
    return _CONTROL.sub(" ", str(clause))[:300]


def _import_paths() -> list[str]:
    # Not the name under which a host imported this package: the folder that holds it comes first.
    return [
        str(Path(__file__).resolve().parents[2]),
        *(path for path in sys.path if Path(path).is_absolute()),
    ]


def _environment() -> dict[str, str]:
    """Nothing of this process's; what keeps threads from taking address space."""
    own = {"MALLOC_ARENA_MAX": "2", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    return own | {name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ}


_pool = _Pool()
_watch = _Watch()


@atexit.register
def _end_workers() -> None:
    _pool.kill_all()


def _after_fork_in_child() -> None:
    # The workers are the parent's.
    global _pool, _watch
    _pool.ending.detach()
    _pool, _watch = _Pool(), _Watch()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
