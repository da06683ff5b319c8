"""One request being answered: what it may ask for, its texts through the pipeline, its headers and its numbers."""

import asyncio
import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import orjson
from starlette.requests import Request
from starlette.responses import Response

from transkimmer_jax.errors import ConfigError
from transkimmer_jax.serving import errors
from transkimmer_jax.serving.jobs import Computed, Job
from transkimmer_jax.serving.limits import Limits
from transkimmer_jax.serving.metrics import Metrics
from transkimmer_jax.serving.models import Models, ServedModel
from transkimmer_jax.serving.pipeline import Pipeline

THRESHOLD_HEADER = "x-threshold"
Result = TypeVar("Result")


class ClientGone(Exception):
    """Nobody waits for the answer."""


@dataclasses.dataclass
class Service:
    """What requests share.

    compute_type: of the devices, for a header. in_flight: requests that are waited for. stopped: requests that the server's end cut off.
    """

    models: Models
    limits: Limits
    metrics: Metrics
    pipeline: Pipeline
    compute_type: str
    in_flight: int = 0
    stopped: int = 0

    def cut_off(self, label: str) -> None:
        """The server's end leaves a request without its answer. label: of the counter of failures."""
        self.stopped += 1
        self.metrics.failed(label)

    @property
    def is_at_work(self) -> bool:
        """Whether a thread of the server is, also behind its end."""
        return self.pipeline.is_at_work or any(model.is_loading for model in self.models)

    async def is_healthy(self) -> bool:
        """Whether both threads are at work, and every model whose last batch met a defect answers again, which is tried."""
        if not self.pipeline.is_healthy:
            return False
        for model in tuple(self.pipeline.failed):
            text, how = model.sample
            job = Job(model, [text], how, True, model.engine.threshold, False, asyncio.get_running_loop().create_future())
            self.pipeline.submit(job)
            try:
                await job.future
            except errors.RequestError:
                return False
        return True


class Exchange:
    """A request and, by and by, what it is answered.

    Args:
      service: shared.
      request: of Starlette, its body read.
      model: that answers.
      route: for the numbers, 'embed' or 'predict', or neither.
    """

    def __init__(self, service: Service, request: Request, model: ServedModel, route: str | None):
        self.service, self.request, self.model = service, request, model
        self._route = route
        self._began = time.perf_counter()

    def _threshold(self, asked: float | None) -> float:
        """Of the gates: what the body asks for, or the header x-threshold, or the model's own. Raises `RequestError` where the server
        does not allow it, or the model is a dense one."""
        own, header = self.model.engine.threshold, self.request.headers.get(THRESHOLD_HEADER)
        if asked is None and header is not None:
            try:
                asked = float(header)
            except ValueError:
                asked = math.nan
        if asked is not None and self.model.engine.arch.skim is None:
            raise errors.invalid(f"{self.model.name!r} is a dense model, which has no threshold: leave the threshold out")
        if asked is None or asked == own:
            return own
        allowed = self.service.limits.threshold_range
        if allowed is None:
            raise errors.invalid("this server has one threshold: leave the threshold out, or start it with --threshold-range")
        if not allowed[0] <= asked <= allowed[1]:
            raise errors.invalid(f"the threshold must be a number from {allowed[0]:g} to {allowed[1]:g}")
        return asked

    def prompt(self, name: str | None) -> str:
        """What stands before texts: one of the model's prompts, or its default. Raises `RequestError` for one that it has not."""
        try:
            return self.model.engine.prompt_text(name)
        except ConfigError as error:
            raise errors.invalid(str(error)) from None

    def check(self, texts: Sequence[Any], field: str, beside: str | None = None) -> None:
        """Raises `RequestError` for no text, for too many, or for one that is empty or has too many characters.

        beside: field of the last text, where the limit counts the others alone.
        """
        limits, spare = self.service.limits, int(beside is not None)
        if len(texts) <= spare:
            raise errors.empty(f"{field} is empty: give at least one text")
        if len(texts) > limits.max_client_batch_size + spare:
            raise errors.too_many(f"{field} has {len(texts) - spare} texts, more than the {limits.max_client_batch_size} of a request")
        for number, text in enumerate(texts):
            characters = _characters(text)
            called = f"{field}: text {number}" if beside is None or number < len(texts) - 1 else beside
            if characters == 0:
                raise errors.invalid(f"{called} is empty")
            if characters > limits.max_input_characters:
                raise errors.invalid(f"{called} has {characters} characters, more than {limits.max_input_characters}")

    async def compute(
        self,
        inputs: Sequence[Any],
        *,
        field: str,
        single: bool,
        threshold: float | None,
        truncate: bool | None = None,
        direction: str | None = None,
        prompt: str = "",
        beside: str | None = None,
        how: str = "texts",
        tokens: bool = False,
    ) -> "Done":
        """What the network says of texts.

        Args:
          inputs: texts, pairs, or token ids, which are read as the texts that they are of.
          field: of the body, for messages.
          single: whether the client sent one text alone.
          threshold, truncate: as the body asks; None: it does not.
          direction: of a text that is too long, which end is cut, 'left' or 'right'; None: as the tokenizer does.
          prompt: stands before each text.
          beside: see `check`.
          how, tokens: see `Job`.

        Raises:
          RequestError: a request beyond the limits, a text that cannot be read, or a failure.
          ClientGone: the connection was closed meanwhile.
        """
        service, method = self.service, "single" if single else "batch"
        service.metrics.asked(self._route, method, len(inputs))
        self.check(inputs, field, beside)
        asked = self._threshold(threshold)
        with self._admitted():
            texts = inputs
            if isinstance(inputs[0], list):
                texts = await service.pipeline.with_tokenizer(self.model.texts_read, inputs)
                self.check(texts, field, beside)
            if tokens:
                failure = await self._while_connected(asyncio.wrap_future(self.model.load_token_engine()))
                if failure is not None:
                    raise errors.failed(failure)
            job = Job(
                self.model, [prompt + text for text in texts] if prompt else texts, direction or how,
                service.limits.auto_truncate if truncate is None else truncate, asked, tokens,
                asyncio.get_running_loop().create_future(), beside,
            )  # fmt: skip
            service.pipeline.submit(job)
            try:
                computed = await self._while_connected(job.future)
            finally:
                job.is_abandoned = True
        seconds = (time.perf_counter() - self._began, computed.tokenization, computed.queue, computed.inference)
        lengths = computed.predictions.lengths.tolist()
        service.metrics.answered(self._route, method, len(inputs), lengths, seconds)
        return Done(computed, seconds, sum(map(_characters, texts)), sum(lengths), service.compute_type)

    async def read(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function of the model gives that reads by its tokenizer. Raises `RequestError` as `compute`, or as the function."""
        with self._admitted():
            return await self.service.pipeline.with_tokenizer(function, *arguments)

    @contextlib.contextmanager
    def _admitted(self) -> Iterator[None]:
        """One of the requests that are waited for. Raises `RequestError` where there are as many as there may be, or where they would wait
        for ever."""
        service = self.service
        if service.in_flight >= service.limits.max_concurrent_requests:
            raise errors.overloaded()
        if not service.pipeline.is_healthy:
            raise errors.unhealthy("the engine is gone: restart the server")
        service.in_flight += 1
        try:
            yield
        finally:
            service.in_flight -= 1

    async def _while_connected(self, future: asyncio.Future[Result]) -> Result:
        """The future's result. Raises `ClientGone` where the connection is closed before."""
        gone = asyncio.ensure_future(self.request.receive())
        try:
            await asyncio.wait((future, gone), return_when=asyncio.FIRST_COMPLETED)
            if not future.done():
                raise ClientGone
            return future.result()
        finally:
            future.cancel()
            gone.cancel()


@dataclasses.dataclass(frozen=True)
class Done:
    """A request whose texts are computed. seconds: in all, reading, waiting and computing. characters, tokens: of all its texts."""

    computed: Computed
    seconds: tuple[float, float, float, float]
    characters: int
    tokens: int
    compute_type: str

    def response(self, content: Any) -> Response:
        """The answer, with the headers of text-embeddings-inference and x-compute-share, ours: the share of tokens that layers computed."""
        total, *parts = (f"{1000 * value:.3f}" for value in self.seconds)
        kept, lengths = self.computed.predictions.kept, self.computed.predictions.lengths
        headers = {
            "x-compute-type": self.compute_type,
            "x-compute-time": total,
            "x-compute-characters": str(self.characters),
            "x-compute-tokens": str(self.tokens),
            "x-compute-share": f"{float(kept.sum()) / (len(kept) * float(lengths.sum())):.4f}",
            "x-total-time": total,
            **dict(zip(("x-tokenization-time", "x-queue-time", "x-inference-time"), parts, strict=True)),
        }
        return json_response(content, headers=headers)


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON; arrays of NumPy as lists of numbers, float32 with as many digits as it has."""
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), status, headers, "application/json")


def _characters(text: Any) -> int:
    """Of a text or a pair; of token ids their number."""
    return sum(map(len, text)) if isinstance(text, tuple) else len(text)
