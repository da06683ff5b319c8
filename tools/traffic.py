"""Many clients at once: what a server answers in a second, how long each waits, and whether the answers are right."""

import asyncio
import collections
import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import aiohttp
import numpy as np
import orjson
import uvloop

_PAUSE = 0.05  # seconds before a client asks again that was refused with 429
_CONNECTING, _SILENCE = 60.0, 300.0  # seconds of a server that does not answer, behind which a request is lost
_QUANTILES = {"p50": 50, "p95": 95, "p99": 99}
_SEED = 0  # of arrivals and of the order of bodies


@dataclasses.dataclass(frozen=True)
class Body:
    """A request. content: JSON. texts: how many. expected: what is to come back, [texts, n]; None: it is not looked at."""

    content: bytes
    texts: int
    expected: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Traffic:
    """How requests come.

    clients: that each ask again once they are answered; or else rate: requests a second, at times that do not depend on answers, with
    exponential gaps between them. seconds: that are measured. warm_up: seconds before that.
    """

    seconds: float
    clients: int | None = None
    rate: float | None = None
    warm_up: float = 1.0


class Measurement:
    """What came back.

    Args:
      labels: of a classifier, in the order of `Body.expected`; None for vectors.
      tolerance: by which an answer may differ from what is expected.
    """

    def __init__(self, labels: Sequence[str] | None, tolerance: float):
        self._labels, self._tolerance = labels, tolerance
        self.statuses: collections.Counter[str] = collections.Counter()
        self.latencies: list[float] = []  # of what was answered, of those that came after the warm-up
        self._answers: list[tuple[float, int]] = []  # when, and of how many texts, within the measured seconds
        self.asked = self.checked = self.wrong = 0
        self.largest_difference = 0.0
        self.tokens = self.computed = 0.0

    def take(self, body: Body, content: bytes, headers: Any) -> None:
        """Look at an answer."""
        if "x-compute-tokens" in headers and "x-compute-share" in headers:  # the second is this package's
            tokens = int(headers["x-compute-tokens"])
            self.tokens += tokens
            self.computed += tokens * float(headers["x-compute-share"])
        if body.expected is None:
            return
        self.checked += body.texts
        try:
            answer = self._read(orjson.loads(content))
        except (KeyError, TypeError, ValueError):  # the shape of another model's answers
            self.wrong += body.texts
            return
        if answer.shape != body.expected.shape:
            self.wrong += body.texts
            return
        differences = np.abs(answer - body.expected)
        differences[np.isnan(differences)] = np.inf
        self.wrong += int((differences > self._tolerance).any(axis=1).sum())
        self.largest_difference = max(self.largest_difference, float(differences.max()))

    def answered(self, at: float, texts: int) -> None:
        """So many texts were answered then."""
        self._answers.append((at, texts))

    def _speed(self, seconds: float) -> float:
        """Texts a second: how answers rise over time. Of answers that come in bursts, as those of a batch do, a count would depend on
        whether the last burst came just before the end."""
        times, texts = np.array(self._answers).reshape(-1, 2).T
        if len(times) < 3 or times[-1] <= times[0]:
            return float(texts.sum()) / seconds
        return float(np.polyfit(times - times[0], np.cumsum(texts), 1)[0])

    def _read(self, answer: Any) -> np.ndarray:
        if self._labels is None:
            return np.array([entry["embedding"] for entry in answer["data"]] if isinstance(answer, dict) else answer, float)
        return np.array([[{entry["label"]: entry["score"] for entry in text}[label] for label in self._labels] for text in answer], float)

    def result(self, traffic: Traffic) -> dict[str, Any]:
        """All of it; times in milliseconds."""
        answered = self.statuses["200"]
        lost = self.asked - sum(count for status, count in self.statuses.items() if status.isdecimal())
        result: dict[str, Any] = {
            "clients": traffic.clients, "rate": traffic.rate, "seconds": traffic.seconds,
            "requests": self.asked, "answered": answered, "statuses": dict(self.statuses), "lost": lost,
            "texts_per_second": self._speed(traffic.seconds),
            "kept_share": self.computed / self.tokens if self.tokens else None,
            "checked_texts": self.checked, "wrong_texts": self.wrong,
            "largest_difference": self.largest_difference if self.checked else None,
        }  # fmt: skip
        if self.latencies:
            milliseconds = 1000 * np.array(self.latencies)
            result["milliseconds"] = {name: float(np.percentile(milliseconds, share)) for name, share in _QUANTILES.items()}
            result["milliseconds"] |= {"mean": float(milliseconds.mean()), "max": float(milliseconds.max())}
        return result


def run(
    url: str,
    bodies: Sequence[Body],
    traffic: Traffic,
    *,
    api_key: str | None = None,
    labels: Sequence[str] | None = None,
    tolerance: float = 1e-3,
) -> dict[str, Any]:
    """Send bodies, again and again in a random order, and say what became of them; see `Measurement`.

    Args:
      url: of a route.
      api_key: that the server wants.
    """
    measurement = Measurement(labels, tolerance)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_Sender(url, bodies, traffic, measurement, api_key).run())
    return measurement.result(traffic)


class _Sender:
    def __init__(self, url: str, bodies: Sequence[Body], traffic: Traffic, measurement: Measurement, api_key: str | None):
        self._url, self._traffic, self._measurement = url, traffic, measurement
        self._headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {api_key}"} if api_key else {})
        self._rng = np.random.default_rng(_SEED)
        self._bodies = [bodies[number] for number in self._rng.permutation(len(bodies))]
        self._next = 0
        self._begin = self._end = 0.0

    async def run(self) -> None:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECTING, sock_read=_SILENCE)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            self._session = session
            self._begin = time.perf_counter() + self._traffic.warm_up
            self._end = self._begin + self._traffic.seconds
            if self._traffic.clients is not None:
                await asyncio.gather(*(self._client() for _ in range(self._traffic.clients)))
            else:
                await self._arrivals(self._traffic.rate or 1.0)

    async def _client(self) -> None:
        while time.perf_counter() < self._end:
            body = self._take()
            while await self._ask(body, time.perf_counter()) == "429" and time.perf_counter() < self._end:
                await asyncio.sleep(_PAUSE)

    async def _arrivals(self, rate: float) -> None:
        tasks, at = [], time.perf_counter()
        while (at := at + float(self._rng.exponential(1 / rate))) < self._end:
            await asyncio.sleep(max(0.0, at - time.perf_counter()))
            # A request that starts late has waited all the same.
            tasks.append(asyncio.create_task(self._ask(self._take(), at)))
        await asyncio.gather(*tasks)

    def _take(self) -> Body:
        body = self._bodies[self._next % len(self._bodies)]
        self._next += 1
        return body

    async def _ask(self, body: Body, arrived: float) -> str:
        self._measurement.asked += 1
        try:
            async with self._session.post(self._url, data=body.content, headers=self._headers) as response:
                content, status = await response.read(), str(response.status)
        except aiohttp.ClientError as error:
            status = type(error).__name__
        now = time.perf_counter()
        self._measurement.statuses[status] += 1
        if status == "200":
            self._measurement.take(body, content, response.headers)
            if arrived >= self._begin:
                self._measurement.latencies.append(now - arrived)
            if self._begin <= now <= self._end:
                self._measurement.answered(now, body.texts)
        return status


def body_of(route: str, texts: Sequence[Any]) -> bytes:
    """The JSON that asks a route about texts or pairs.

    route: /predict, /embed, or /v1/embeddings.
    """
    if route.endswith("/predict"):
        return orjson.dumps({"inputs": [[text] if isinstance(text, str) else text for text in texts], "truncate": True})
    if route.endswith("/embeddings"):
        return orjson.dumps({"input": texts})
    return orjson.dumps({"inputs": texts, "truncate": True})
