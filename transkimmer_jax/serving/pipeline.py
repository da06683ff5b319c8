"""From a request to its predictions: one thread reads texts, another computes batches, and the event loop waits for neither.

Both take all that waits at once, so what a call costs is shared by those that come together. Nothing ends them but the end of the server: a
panic of the tokenizer, which is written in Rust, is no `Exception`, and it fails its request alone.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from transkimmer_jax.data.batches import TokenizedExamples, concatenated
from transkimmer_jax.errors import DataError, TranskimmerError
from transkimmer_jax.inference.predictions import Predictions
from transkimmer_jax.serving import errors
from transkimmer_jax.serving.batching import Part, WaitingTexts
from transkimmer_jax.serving.jobs import Computed, Job
from transkimmer_jax.serving.limits import Limits
from transkimmer_jax.serving.metrics import Metrics
from transkimmer_jax.serving.models import SIDES, Reading, ServedModel
from transkimmer_jax.serving.pieces import divided, sliced

logger = logging.getLogger(__name__)

_READ_TOGETHER = 256  # jobs at most, so that the first of many need not wait for all to be read
_TOO_LONG = "shorten it, send truncate=true on a route that takes it, or start the server with --auto-truncate"
_END_SECONDS = 1.0  # that the end waits for what a thread is at


class Pipeline:
    """The two threads, and what waits for them. Start it within the event loop that answers."""

    def __init__(self, limits: Limits, metrics: Metrics):
        self._metrics = metrics
        self._unread: queue.SimpleQueue[Job | Callable[[], None] | None] = queue.SimpleQueue()
        self._waiting = WaitingTexts(limits.max_batch_tokens)
        self._threads: list[threading.Thread] = []
        self.failed: set[ServedModel] = set()  # whose last batch met a defect, of the engine or of its device
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Begin to take jobs."""
        self._loop = asyncio.get_running_loop()
        self._threads = [threading.Thread(target=target, name=name, daemon=True) for name, target in self._parts()]
        for thread in self._threads:
            thread.start()

    def _parts(self) -> list[tuple[str, Callable[[], None]]]:
        return [("reading", self._read_all), ("computing", self._compute_all)]

    def stop(self) -> None:
        """End both threads behind the jobs that were submitted. A batch that takes longer is left alone, since nobody waits for it."""
        self._unread.put(None)
        end = time.monotonic() + _END_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    @property
    def is_healthy(self) -> bool:
        """Whether both threads are at work."""
        return bool(self._threads) and all(thread.is_alive() for thread in self._threads)

    @property
    def is_at_work(self) -> bool:
        """Whether a thread is."""
        return any(thread.is_alive() for thread in self._threads)

    @property
    def waiting(self) -> int:
        """Texts that wait for the engine."""
        return len(self._waiting)

    def submit(self, job: Job) -> None:
        """Have a job read and computed; its future says what became of it."""
        self._unread.put(job)

    async def with_tokenizer(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function gives that reads by a tokenizer, called by the thread that alone may do so."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def call() -> None:
            result, failure = None, None
            try:
                result = function(*arguments)
            except Exception as error:
                failure = error
            except BaseException as error:
                failure = self._told(error)
            loop.call_soon_threadsafe(_settle, future, result, failure)

        self._unread.put(call)
        return await future

    # Reading

    def _read_all(self) -> None:
        is_over = False
        while not is_over:
            arrived: list[Job] = []
            entry: Job | Callable[[], None] | None = self._unread.get()
            while True:
                if entry is None:
                    is_over = True
                elif isinstance(entry, Job):
                    arrived.append(entry)
                else:
                    entry()
                if is_over or len(arrived) == _READ_TOGETHER or self._unread.empty():
                    break
                entry = self._unread.get()
            groups: dict[tuple[str, str, bool], list[Job]] = {}
            for job in arrived:
                if not job.is_abandoned:
                    groups.setdefault((job.model.name, job.how, isinstance(job.inputs[0], tuple)), []).append(job)
            for jobs in groups.values():
                self._surely(jobs, self._read, jobs)
        self._waiting.close()

    def _read(self, jobs: list[Job]) -> None:
        """Read jobs of one model in one way, together; where that fails, one by one, so that a text that cannot be read is nobody else's
        trouble."""
        started = time.perf_counter()
        try:
            if len(jobs) > 1 and jobs[0].how in ("texts", *SIDES):
                read = jobs[0].model.read([text for job in jobs for text in job.inputs], jobs[0].how).examples
                readings, start = [], 0
                for job in jobs:
                    readings.append(Reading(sliced(read, start, start + len(job.inputs))))
                    start += len(job.inputs)
            else:
                readings = [job.model.read(job.inputs, job.how) for job in jobs]
        except BaseException as error:
            if len(jobs) > 1:
                for job in jobs:
                    self._read([job])
            else:
                self._give_up(jobs, error)
            return
        seconds = (time.perf_counter() - started) / len(jobs)
        accepted = []
        for job, reading in zip(jobs, readings, strict=True):
            if not job.truncate and reading.examples.truncated.any():
                number, limit = int(np.argmax(reading.examples.truncated)), job.model.engine.max_length
                self._give_up([job], errors.invalid(f"{job.called(number)} has more than {limit} tokens: {_TOO_LONG}"))
            else:
                job.is_read(reading, started, seconds)
                accepted.append(job)
        self._waiting.add(accepted)

    # Computing

    def _compute_all(self) -> None:
        while (batch := self._waiting.take()) is not None:
            now = time.perf_counter()
            for part in batch:
                if part.start == 0:
                    part.job.started = now
            self._surely([part.job for part in batch], self._compute, batch)

    def _surely(self, jobs: list[Job], function: Callable[[Any], None], argument: Any) -> None:
        """Call it; where it fails nobody waits for these jobs any longer, and the thread goes on."""
        try:
            function(argument)
        except BaseException as error:
            self._give_up(jobs, error)

    def _compute(self, batch: list[Part]) -> None:
        """Compute parts together; where that fails, one by one."""
        job = batch[0].job
        examples = concatenated([sliced(part.job.examples, part.start, part.stop) for part in batch])
        started = time.perf_counter()
        try:
            predictions = self._predict(job, examples)
        except BaseException as error:
            if len(batch) > 1:
                for part in batch:
                    self._compute([part])
            else:
                if not isinstance(error, TranskimmerError):
                    self.failed.add(job.model)
                self._give_up([job], error)
            return
        seconds = time.perf_counter() - started
        self.failed.discard(job.model)
        self._metrics.batch(job.model, predictions)
        parts = divided(predictions, [part.stop - part.start for part in batch])
        done = [part.job for part, own in zip(batch, parts, strict=True) if part.job.is_computed(own, seconds)]
        self._deliver([(job.future, job.result(), None) for job in done])

    def _predict(self, job: Job, examples: TokenizedExamples) -> Predictions:
        engine = job.model.engine_for(job.tokens)
        statistics = engine.runtime.statistics  # whose overflows need no FLOPs added up
        overflows = statistics.overflows
        predictions = engine.predict_tokenized(examples, threshold=job.threshold)
        self._metrics.overflows(job.model, statistics.overflows - overflows)
        return predictions

    # Answering

    def _told(self, error: BaseException) -> errors.RequestError:
        """What a client is told of an error."""
        if isinstance(error, errors.RequestError):
            return error
        if isinstance(error, DataError):
            return errors.unreadable(str(error))
        if isinstance(error, TranskimmerError):
            return errors.failed(str(error))
        logger.error("a batch failed", exc_info=error)
        return errors.failed("the engine failed on this request: the server's log says why")

    def _give_up(self, jobs: list[Job], error: BaseException) -> None:
        told = self._told(error)
        for job in jobs:
            job.is_abandoned = True  # also the rest of one of which a part has failed
        self._deliver([(job.future, None, told) for job in jobs])

    def _deliver(self, settled: Sequence[tuple["asyncio.Future[Computed]", Computed | None, Exception | None]]) -> None:
        """Wake up those that wait, all at once."""
        if settled and self._loop is not None:
            self._loop.call_soon_threadsafe(_settle_all, settled)


def _settle_all(settled: Sequence[tuple["asyncio.Future[Any]", Any, Exception | None]]) -> None:
    for future, result, failure in settled:
        _settle(future, result, failure)


def _settle(future: "asyncio.Future[Any]", result: Any, failure: Exception | None) -> None:
    if future.done():  # whoever waited has gone
        return
    if failure is None:
        future.set_result(result)
    else:
        future.set_exception(failure)
