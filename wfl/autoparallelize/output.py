"""Where the results of a call go: an OutputSpec with checkpoints, a plain list, or nowhere."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from .ahead import Ahead
from .deadline import UNFINISHED
from .identify import ItemDigests, call_record, is_one_shot
from .rng import InfoSource

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from wfl.configset import OutputSpec

    from .engines import Done
    from .task import Chunk, Task

__all__ = ["ItemResults", "Sink", "open_output"]

# Work that takes less than this may be done again after a crash; a checkpoint per tiny chunk would cost more.
_SECONDS_BETWEEN_CHECKPOINTS = 0.02


class Sink:
    """Takes finished chunks in order. This one, for calls without output, forgets them.

    Attributes
    ----------
    done
        Number of leading items whose results are there already.
    """

    done = 0
    keeper: _FileKeeper | None = None

    def __init__(self, inputs: Iterable[Any]) -> None:
        self._inputs = inputs

    @property
    def reads_files(self) -> bool:
        """Whether the items are read from files, so that nobody else has them."""
        return getattr(self._inputs, "_files", None) is not None

    def items(self, source: InfoSource) -> Iterator[Any]:
        """Yield the items that are still to be worked on."""
        from wfl.configset import iter_items

        return iter_items(self._inputs)

    def put(self, finished: Done) -> None:
        """Take the results of the next chunk."""

    def put_late(self, finished: Done) -> None:
        """Take the results of a chunk after one that has failed: they cannot be stored, but may be kept."""

    def value(self) -> Any:
        """Return what the call returns."""
        return None


class ItemResults:
    """An output that keeps one result per item: what a chunk brings back from another place.

    Parameters
    ----------
    may_be_partial
        Whether the caller can do with the results of some of the items if the job's time does not suffice for all.

    Attributes
    ----------
    results : list
        One entry per item, None where there is no result.
    """

    may_be_partial = False

    def __init__(self, *, may_be_partial: bool = False) -> None:
        self.results: list[Any] = []
        if may_be_partial:
            self.may_be_partial = True


class _ListSink(Sink):
    def __init__(self, inputs: Iterable[Any], output: ItemResults) -> None:
        super().__init__(inputs)
        self._output = output

    def put(self, finished: Done) -> None:
        results = self._output.results
        results.extend([UNFINISHED] * (finished.chunk.first - len(results)))
        results.extend(finished.results)

    def value(self) -> list[Any]:
        return self._output.results


class _SpecSink(Sink):
    """Stores results at the places of their inputs; without checkpoints, as for outputs in memory."""

    def __init__(self, inputs: Iterable[Any], output: OutputSpec) -> None:
        super().__init__(inputs)
        self._output = output

    def begin(self, task: Task, rng: Any) -> None:
        """Open the output."""
        self._output.begin(None)

    def close(self, *, remove: bool) -> None:
        """Put away what is kept beside the output."""

    def abort(self) -> None:
        """Stop, keeping what is stored for the next run of the same call."""
        self._output.abort()
        self.close(remove=False)

    def put(self, finished: Done) -> None:
        for path, result in zip(finished.chunk.paths, finished.results, strict=True):
            if result is not None:
                self._output.put(result, path)

    def value(self) -> Any:
        return self._output.result()


class _FileKeeper:
    """Keeps results that wait in a file beside the output; see ``Keeper``."""

    def __init__(self, ahead: Ahead, digests: ItemDigests) -> None:
        self._ahead = ahead
        self._digests = digests
        self._kept: set[int] = set()
        self.has = ahead.has
        self.pop = ahead.pop

    def keep(self, chunk: Chunk, results: list[Any]) -> None:
        """Take the results of a chunk that has to wait for others, once."""
        if chunk.first not in self._kept:
            self._kept.add(chunk.first)
            self._ahead.keep(chunk.first, self._digests.of(chunk.first, len(chunk.paths)), results)


class _FileSink(_SpecSink):
    """Stores results in files, and notes which items they belong to, so that an interrupted run can be taken up."""

    def __init__(self, inputs: Iterable[Any], output: OutputSpec, journal: bool) -> None:
        super().__init__(inputs, output)
        self._journal = journal
        first: Path = (output.files or [])[0]
        self._ahead = Ahead(first.with_name(f"tmp.{first.name}.ahead"))
        self._digests = ItemDigests(self._ahead.check)
        self._n = 0
        self._noted = True
        self._last = 0.0
        self._found = 0

    def items(self, source: InfoSource) -> Iterator[Any]:
        """Yield the items after those that an interrupted run of the same call has finished."""
        from wfl.configset import iter_items

        self.done = self._n = self._skip(iter_items(self._inputs))
        if self.done:
            source.skip(self.done)
        return self._digests.watch(self._rest) if self._journal else self._rest

    def _skip(self, items: Iterator[Any]) -> int:
        """Read past the finished items; start over if they are not what they were."""
        self._rest = items
        n = self._found
        if not n:
            return 0
        kept: list[Any] = []
        count = 0
        for item in self._digests.watch(islice(items, n)):
            count += 1
            if is_one_shot(self._inputs):
                kept.append(item)
        self._digests.advance(count)
        if count == n and self._digests.running() == self._output.resumed_digest(n):
            return n
        from wfl.configset import iter_items

        self._output.restart()
        self._start_anew()
        self._rest = chain(kept, items) if is_one_shot(self._inputs) else iter_items(self._inputs)
        return 0

    def begin(self, task: Task, rng: Any) -> None:
        """Open the output; see what an interrupted run has left."""
        record = call_record(task, self._inputs, rng)
        self._found = self._output.begin(record)
        self._journal = self._journal and record is not None
        self._last = time.monotonic()
        if self._journal and record is not None:
            self.keeper = _FileKeeper(self._ahead, self._digests)
            self._ahead.load(json.dumps(record.to_dict(), sort_keys=True))

    def _start_anew(self) -> None:
        self._ahead.close(remove=True)
        self._digests = ItemDigests(self._ahead.check)
        self.keeper = _FileKeeper(self._ahead, self._digests)

    def put_late(self, finished: Done) -> None:
        if self.keeper is not None:
            self.keeper.keep(finished.chunk, finished.results)

    def close(self, *, remove: bool) -> None:
        """Put away what is kept beside the output."""
        self._ahead.close(remove=remove)

    def put(self, finished: Done) -> None:
        self._noted = True  # if this fails halfway, there is no number of items that what is stored belongs to
        super().put(finished)
        if not self._journal:
            return
        n = len(finished.chunk.paths)
        self._n += n
        self._digests.advance(n)
        now = time.monotonic()
        self._noted = now - self._last >= _SECONDS_BETWEEN_CHECKPOINTS
        if self._noted:
            self._output.checkpoint(self._n, self._digests.running())
            self._last = now

    def abort(self) -> None:
        """Stop, with a note of everything that was stored."""
        if not self._noted:
            self._output.checkpoint(self._n, self._digests.running())
        super().abort()


@contextlib.contextmanager
def open_output(
    output: OutputSpec | ItemResults | None,
    task: Task,
    inputs: Iterable[Any],
    rng: np.random.Generator | None = None,
    *,
    journal: bool = True,
) -> Iterator[Sink]:
    """Open an output for a call; close it if all goes well, keep what there is for the next run otherwise.

    Without ``journal`` what an interrupted run has left is continued, but nothing more is noted for that purpose.
    """
    if output is None:
        yield Sink(inputs)
    elif isinstance(output, ItemResults):
        yield _ListSink(inputs, output)
    else:
        inputs, empty = _look_ahead(inputs)
        sink = _SpecSink(inputs, output) if not output.files else _FileSink(inputs, output, journal)
        if not empty or any(path.exists() for path in output.files or ()):
            sink.begin(task, rng)  # an output that has begun leaves files, if only empty ones
        try:
            yield sink
        except BaseException:
            sink.abort()
            raise
        output.close()
        sink.close(remove=True)


def _look_ahead(inputs: Iterable[Any]) -> tuple[Iterable[Any], bool]:
    """Return the inputs, and whether there are none."""
    from wfl.configset import iter_items

    if not is_one_shot(inputs):
        return inputs, next(iter_items(inputs), None) is None
    iterator = iter(inputs)
    first = list(islice(iterator, 1))
    return chain(first, iterator), not first
