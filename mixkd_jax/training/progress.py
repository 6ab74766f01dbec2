"""What a person sees of a run meanwhile: one live line on a terminal, else a line now and then."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping, Sequence

from rich.console import Console
from rich.live import Live
from rich.text import Text

from mixkd_jax.training.forecast import Smooth, Work, seconds_left

_SMOOTHED = 10.0  # seconds that rates and times left are smoothed over
_PER_SECOND = 4  # how often the live line is drawn
_SHORT = 0.5  # seconds; what takes less while a model trains isn't shown


@dataclasses.dataclass
class _Training:
    """A group of models that is being trained."""

    label: str
    names: tuple[str, ...]
    first: int
    step: int
    total: int
    per_epoch: int
    batch_size: int
    begun: float
    updated: float
    rate: float = 0.0  # steps per second, smoothed
    loss: str = ""
    accuracy: str = ""

    def read(self, lines: Iterable[Mapping[str, float]]) -> None:
        """Takes the models' last metrics, where there are any."""
        lines, key = list(lines), "validation_accuracy"
        self.loss = _range([line["loss"] for line in lines if "loss" in line], "{:.3g}")
        self.accuracy = _range([100 * line[key] for line in lines if key in line], "{:.0f}")


class Progress:
    """Tells on standard error what a run does; of many processes one alone should be enabled.

    On a terminal it is one line that is drawn anew several times a second, by a thread, so that it
    moves while the program waits for a compiler or a disk. Elsewhere it is a whole line at most
    every `every` seconds.

    Attributes:
      every: seconds between such lines.
      started: when it was made, by the wall clock and the CPU's, in seconds.
    """

    def __init__(self, *, every: float = 10.0, enabled: bool = True):
        """Says nothing at all if not `enabled`; shows what goes on while it is entered."""
        self.every = every
        self.started = time.perf_counter(), time.process_time()
        self._enabled = enabled
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._doing: tuple[tuple[str, float], ...] = ()
        self._training: _Training | None = None
        self._compiling: float | None = None
        self._works: dict[str, Work] = {}
        self._left = Smooth(_SMOOTHED)
        self._told = time.monotonic()
        self._shown = contextlib.ExitStack()

    def __enter__(self) -> Progress:
        """Begins to show what goes on."""
        if self._enabled and self._console.is_terminal and not self._console.is_dumb_terminal:
            live = Live(
                get_renderable=self._render,
                console=self._console,
                refresh_per_second=_PER_SECOND,
                transient=True,
                redirect_stdout=False,
            )
            self._shown.enter_context(live)
        elif self._enabled:
            self._shown.enter_context(self._lines_now_and_then())
        return self

    def __exit__(self, *_: object) -> None:
        """Ends it, and leaves what was said."""
        self._shown.close()

    def say(self, text: str) -> None:
        """Prints a line that stays."""
        if self._enabled:
            self._console.print(Text(text), soft_wrap=True)
            self._told = time.monotonic()

    @contextlib.contextmanager
    def during(self, text: str) -> Iterator[None]:
        """Shows what is done within, such as "loading data"."""
        outer = self._doing
        self._doing = (*outer, (text, time.monotonic()))
        try:
            yield
        finally:
            self._doing = outer

    def compiling(self) -> None:
        """Shows that a program is being compiled, until the next step is done."""
        self._compiling = self._compiling or time.monotonic()

    def plan(self, works: Mapping[str, Work]) -> None:
        """Takes all models of the run by name, to count them and to tell the time left."""
        self._works = dict(works)

    def trained(self, name: str) -> None:
        """Notes that a model is trained and evaluated."""
        self._works[name].trained = True

    def analysed(self, name: str, seconds: MutableMapping[str, float]) -> None:
        """Notes that a model of the plan is analysed, and what it took, by kind."""
        if name in self._works:
            self._works[name].analysed = True
            self._works[name].seconds = seconds

    def start(
        self,
        label: str,
        models: Mapping[str, MutableMapping[str, float]],
        *,
        step: int,
        total: int,
        per_epoch: int,
        batch_size: int,
    ) -> None:
        """Begins to follow the training of models side by side.

        Args:
          label: what they are called together.
          models: their names, and the seconds that their clocks go on to count.
          step: that they begin at.
          total: steps.
          per_epoch: steps.
          batch_size: examples in a step.
        """
        now = time.monotonic()
        for name in set(models) & set(self._works):
            work = self._works[name]
            work.step, work.seconds = max(step, work.step), models[name]
        self._training = _Training(
            label=f"{self._numbers(models)}{label}",
            names=tuple(models),
            first=step,
            step=step,
            total=total,
            per_epoch=max(per_epoch, 1),
            batch_size=batch_size,
            begun=now,
            updated=now,
        )

    def update(self, step: int, lines: Iterable[Mapping[str, float]], *, compiled: bool) -> None:
        """Tells how far the training is.

        Args:
          step: that is done.
          lines: each model's last metrics, perhaps none yet.
          compiled: whether a program was compiled since the last update, so that the time since
            then says nothing of the speed.
        """
        training, now, self._compiling = self._training, time.monotonic(), None
        assert training is not None
        passed = max(now - training.updated, 1e-9)
        if not compiled:
            rate = (step - training.step) / passed
            weight = 1 - math.exp(-passed / _SMOOTHED)
            training.rate += (weight if training.rate else 1) * (rate - training.rate)
        training.step, training.updated = step, now
        training.read(lines)
        for name in training.names:
            if name in self._works:
                self._works[name].step = max(step, self._works[name].step)

    def finish(self, step: int, lines: Iterable[Mapping[str, float]]) -> None:
        """Sums up the training; the arguments are those of `update`."""
        training, self._training, self._compiling = self._training, None, None
        assert training is not None
        training.read(lines)
        steps, passed = step - training.first, time.monotonic() - training.begun
        parts = [training.label, f"{steps:,} steps in {clock(passed)}"]
        self.say("   ".join([*parts, *_metrics(training).values()]))

    def line(self, width: int = 10_000) -> str:
        """Returns what goes on now in one line, without its less important parts if it is long."""
        now, training = time.monotonic(), self._training
        label, details = training.label if training else "", self._details(training, now)
        estimate = seconds_left(self._works.values())
        if estimate and (left := self._left.update(estimate, now)) is not None:
            own = f"{details['left']}, " if "left" in details else ""
            details["left"] = f"{own}the run {about(left)}"
        expendable = ["speed", "loss", "accuracy"]
        while True:
            told = "   ".join(filter(None, [label, *details.values()]))
            if len(told) <= width or not expendable:
                return told
            details.pop(expendable.pop(0), None)

    def _details(self, training: _Training | None, now: float) -> dict[str, str]:
        """Returns what is done, or how far the training is, in parts by their name."""
        doing = self._doing or ((("compiling", self._compiling),) if self._compiling else ())
        if doing and (training is None or now - doing[-1][1] >= _SHORT):
            text, since = doing[-1]
            return {"doing": f"{text} ... {clock(now - since)}"}
        if training is None:
            return {}
        epoch, epochs = (n / training.per_epoch for n in (training.step, training.total))
        place = f"epoch {epoch:.1f}/{epochs:.4g}"
        if epochs < 1:
            place = f"step {training.step}/{training.total}"
        details = {"epoch": place, **_metrics(training)}
        if training.rate:
            left = (training.total - training.step) / training.rate - (now - training.updated)
            details["speed"] = f"{training.rate * training.batch_size:,.0f} images/s"
            these = "this model" if len(training.names) == 1 else "these"
            details["left"] = f"{these} {clock(max(left, 0))}"
        return details

    def _numbers(self, names: Collection[str]) -> str:
        """Returns "[2/9] " for the second of nine models, "[2-5/9] " for four of them."""
        if not set(names) <= set(self._works):
            return ""
        first = 1 + sum(work.trained for work in self._works.values())
        last = first + len(names) - 1
        return f"[{first if first == last else f'{first}-{last}'}/{len(self._works)}] "

    def _render(self) -> Text:
        width = self._console.width
        return Text(self.line(width), no_wrap=True, overflow="ellipsis")

    def tell(self) -> None:
        """Prints the line as it is now, if it is time to."""
        now = time.monotonic()
        if now - self._told >= self.every and (line := self.line()):
            self.say(line)

    @contextlib.contextmanager
    def _lines_now_and_then(self) -> Iterator[None]:
        ended = threading.Event()

        def tell() -> None:
            while not ended.wait(min(max(self.every / 4, 0.05), 1.0)):
                self.tell()

        thread = threading.Thread(target=tell, daemon=True, name="progress")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _metrics(training: _Training) -> dict[str, str]:
    parts = {"loss": f"loss {training.loss}", "accuracy": f"val {training.accuracy} %"}
    return {name: text for name, text in parts.items() if getattr(training, name)}


def _range(values: Sequence[float], form: str) -> str:
    """Returns the values' smallest and largest, as "0.5-1.6", or the one that they have."""
    ends = dict.fromkeys(form.format(end) for end in (min(values), max(values))) if values else ()
    return "-".join(ends)


def clock(seconds: float) -> str:
    """Returns seconds as "0:20", "3:05" or "2:03:05"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def about(seconds: float) -> str:
    """Returns a guess of seconds in few digits: "about 40 s", "about 6 min" or "about 2.5 h"."""
    if seconds < 57.5:
        return f"about {max(5 * round(seconds / 5), 5)} s"
    if seconds < 99.5 * 60:
        return f"about {round(seconds / 60)} min"
    if seconds < 99.5 * 3600:
        return f"about {seconds / 3600:.2g} h"
    return f"about {seconds / 86400:.0f} days"
