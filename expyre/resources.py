"""What a job asks for, and which partition of a system can give it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expyre.errors import RequestError
from expyre.units import kB_to_mem, mem_to_kB, time_to_HMS, time_to_sec

__all__ = ["Resources"]


class Resources:
    """Resources of one job.

    Parameters
    ----------
    max_time
        Longest run time: seconds or a time such as ``1h``; None asks for no limit of its own, so that the limit of the
        partition holds.
    num_nodes, num_cores
        Number of whole nodes or of cores; exactly one of the two.
    max_mem_tot, max_mem_per_core
        Memory of the whole job or of each core: kB or a size such as ``4GB``; at most one of the two.
    partitions, queues
        Regular expression or several, one of which must match the whole name of the partition; at most one of the two,
        which mean the same.
    num_gpus
        GPUs per node.

    Attributes
    ----------
    max_time : int or None
        Seconds.
    n : tuple of int and str
        Count, and what is counted: ``nodes`` or ``cores``.
    max_mem : tuple of int and str, or None
        kB, and per what: ``tot`` or ``per_core``.
    partitions : list of str or None
        Regular expressions.
    num_gpus : int or None
        GPUs per node.

    Raises
    ------
    RequestError
        A ValueError; the message lists everything that is wrong with the request.
    """

    def __init__(
        self,
        max_time: str | float | None,
        num_nodes: int | None = None,
        num_cores: int | None = None,
        max_mem_tot: str | float | None = None,
        max_mem_per_core: str | float | None = None,
        partitions: str | Iterable[str] | None = None,
        queues: str | Iterable[str] | None = None,
        num_gpus: int | None = None,
    ) -> None:
        request = _Request()
        self.max_time = request.size("max_time", max_time, time_to_sec)
        self.n = request.count(num_nodes, num_cores)
        self.max_mem = request.memory(max_mem_tot, max_mem_per_core)
        self.partitions = request.patterns(partitions, queues)
        self.num_gpus = request.gpus(num_gpus)
        request.finish()

    def __str__(self) -> str:
        text = f"time={self.max_time} n={self.n} mem={self.max_mem} partitions={self.partitions}"
        return text if self.num_gpus is None else f"{text} gpus={self.num_gpus}"

    def __repr__(self) -> str:
        return f"Resources({', '.join(f'{key}={value!r}' for key, value in self.to_dict().items())})"

    def to_dict(self) -> dict[str, Any]:
        """Return keyword arguments that make the same resources again; times in s, memory in kB, JSON types only."""
        kwargs: dict[str, Any] = {"max_time": self.max_time, f"num_{self.n[1]}": self.n[0]}
        if self.max_mem is not None:
            kwargs[f"max_mem_{self.max_mem[1]}"] = self.max_mem[0]
        if self.partitions is not None:
            kwargs["partitions"] = list(self.partitions)
        if self.num_gpus is not None:
            kwargs["num_gpus"] = self.num_gpus
        return kwargs

    def scaled(self, time: float = 1.0, mem: float = 1.0) -> Resources:
        """Return the same resources with so many times the run time and the memory, rounded up; no limit stays none."""
        kwargs = self.to_dict()
        for name, factor in (("max_time", time), ("max_mem_tot", mem), ("max_mem_per_core", mem)):
            if kwargs.get(name) is not None:
                kwargs[name] = math.ceil(kwargs[name] * factor)
        return Resources(**kwargs)

    def total_mem(self, nodes: Mapping[str, int]) -> int | None:
        """Return the memory in kB asked for in all on the nodes that `find_nodes` chose, None if none was asked for."""
        if self.max_mem is None:
            return None
        return self.max_mem[0] if self.max_mem[1] == "tot" else self.max_mem[0] * nodes["num_cores"]

    def find_nodes(
        self, partitions: Mapping[str, Mapping[str, Any]] | None, exact_fit: bool = True, partial_node: bool = False
    ) -> tuple[str, dict[str, int]]:
        """Choose the partition that wastes the fewest cores, the first one of equals.

        Parameters
        ----------
        partitions
            Name to properties of the nodes: ``num_cores``, ``max_time`` (s), ``max_mem`` (kB), ``num_gpus``.
        exact_fit
            Take only partitions whose nodes the requested cores fill completely.
        partial_node
            Take a part of one node, just the requested cores; implies ``exact_fit=False``. A request for whole nodes
            stays one for whole nodes.

        Returns
        -------
        partition : str
            The key in ``partitions``.
        nodes : dict of str to int
            ``num_nodes``, ``num_cores``, ``num_cores_per_node``, and ``num_gpus`` (per node) if GPUs were asked for.

        Raises
        ------
        RequestError
            A RuntimeError and a ValueError; no partition fits, and the message says of each of them why not.
        """
        partial = partial_node and self.n[1] == "cores"
        rejected: dict[str, list[_Misfit]] = {}
        best: tuple[int, str, int] | None = None
        for name, node in (partitions or {}).items():
            misfits = self._misfits(name, node, exact_fit and not partial_node, partial)
            cores = node["num_cores"]
            if misfits:
                rejected[name] = misfits
            elif best is None or self._unused(cores) < best[0]:
                best = (self._unused(cores), name, cores)
        if best is None:
            raise RequestError(_nothing_fits(str(self), rejected))
        return best[1], self._node_dict(best[2], partial)

    def _unused(self, cores: int) -> int:
        return -self.n[0] % cores if self.n[1] == "cores" else 0

    def _num_nodes(self, cores: int) -> int:
        return self.n[0] if self.n[1] == "nodes" else math.ceil(self.n[0] / cores)

    def _node_dict(self, cores: int, partial: bool) -> dict[str, int]:
        num_nodes, per_node = (1, self.n[0]) if partial else (self._num_nodes(cores), cores)
        nodes = {"num_nodes": num_nodes, "num_cores": num_nodes * per_node, "num_cores_per_node": per_node}
        return nodes | {"num_gpus": self.num_gpus} if self.num_gpus else nodes

    def _misfits(self, name: str, node: Mapping[str, Any], exact_fit: bool, partial: bool) -> list[_Misfit]:
        found = (
            self._misfit_name(name),
            self._misfit_time(time_to_sec(node.get("max_time"))),
            self._misfit_cores(node["num_cores"], exact_fit, partial),
            self._misfit_memory(mem_to_kB(node.get("max_mem")), node["num_cores"]),
            self._misfit_gpus(node.get("num_gpus") or 0),
        )
        return [misfit for misfit in found if misfit is not None]

    def _misfit_name(self, name: str) -> _Misfit | None:
        if self.partitions is None or any(re.fullmatch(pattern, name) for pattern in self.partitions):
            return None
        return _Misfit(f"its name matches none of partitions={self.partitions}", f"partitions={name!r}")

    def _misfit_time(self, limit: int | None) -> _Misfit | None:
        if limit is None or self.max_time is None or self.max_time <= limit:
            return None
        asked = time_to_HMS(self.max_time)
        return _Misfit(f"max_time {asked} is over its limit {time_to_HMS(limit)}", f"max_time='{time_to_HMS(limit)}'")

    def _misfit_cores(self, cores: int, exact_fit: bool, partial: bool) -> _Misfit | None:
        count, unit = self.n
        if unit == "nodes":
            return None
        if partial and count > cores:
            return _Misfit(f"{count} cores are not a part of one of its {cores}-core nodes", f"num_cores={cores}")
        if exact_fit and count % cores != 0:
            filled = math.ceil(count / cores) * cores
            remedy = f"num_cores={filled} or exact_fit=False"
            return _Misfit(f"{count} cores do not fill its {cores}-core nodes (exact_fit)", remedy)
        return None

    def _misfit_memory(self, limit: int | None, cores: int) -> _Misfit | None:
        if limit is None or self.max_mem is None:
            return None
        asked, per = self.max_mem
        num_nodes = self._num_nodes(cores)
        room = limit // cores if per == "per_core" else limit * num_nodes
        if asked <= room:
            return None
        where = "each core of it" if per == "per_core" else f"{num_nodes} of its nodes"
        return _Misfit(
            f"max_mem_{per} {kB_to_mem(asked)} is over the {kB_to_mem(room)} of {where}",
            f"max_mem_{per}='{kB_to_mem(room)}'",
        )

    def _misfit_gpus(self, available: int) -> _Misfit | None:
        asked = self.num_gpus or 0
        if asked <= available:
            return None
        if available == 0:
            return _Misfit(f"it has no GPUs and {asked} are asked for", "num_gpus of the partition set in config.json")
        return _Misfit(f"{asked} GPUs per node are more than its {available}", f"num_gpus={available}")


@dataclass(frozen=True)
class _Misfit:
    """Why a partition cannot take a request, and what would make it."""

    reason: str
    remedy: str


def _nothing_fits(request: str, rejected: Mapping[str, Sequence[_Misfit]]) -> str:
    if not rejected:
        return f"no partition for the request {request}: the system has no partitions, name some in its config.json"
    lines = [f"no partition fits the request {request}"]
    lines += [f"  {name}: {'; '.join(misfit.reason for misfit in misfits)}" for name, misfits in rejected.items()]
    nearest = min(rejected, key=lambda name: len(rejected[name]))
    remedies = ", ".join(misfit.remedy for misfit in rejected[nearest])
    return "\n".join([*lines, f"Nearest is {nearest!r}: it would fit with {remedies}."])


class _Request:
    """Reads the arguments of a request and collects all that is wrong with them."""

    def __init__(self) -> None:
        self.mistakes: list[str] = []

    def finish(self) -> None:
        if self.mistakes:
            raise RequestError("\n".join(["these resources cannot be asked for:", *(f"  {m}" for m in self.mistakes)]))

    def size(self, name: str, value: Any, read: Any) -> int | None:
        """Return a time or a memory size; None for none, or if it is no size, which is noted."""
        try:
            result: int | None = read(value)
        except ValueError as error:
            self.mistakes.append(f"{name}: {error}")
            return None
        if result is not None and result < 0:
            self.mistakes.append(f"{name}: {value!r} is less than 0")
        return result

    def one_of(self, values: Mapping[str, Any]) -> tuple[str, Any] | None:
        """Return the argument that was given of two that exclude each other."""
        given = [(name, value) for name, value in values.items() if value is not None]
        if len(given) > 1:
            self.mistakes.append(" and ".join(f"{name}={value!r}" for name, value in given) + " were given: give one")
        return given[0] if given else None

    def count(self, num_nodes: Any, num_cores: Any) -> tuple[int, str]:
        given = self.one_of({"num_nodes": num_nodes, "num_cores": num_cores})
        if given is None:
            self.mistakes.append("neither num_nodes nor num_cores was given: give one")
            return 1, "cores"
        for name, value in (("num_nodes", num_nodes), ("num_cores", num_cores)):
            if value is not None:
                self.integer(name, value, 1)
        return given[1], given[0].removeprefix("num_")

    def memory(self, tot: Any, per_core: Any) -> tuple[int, str] | None:
        self.one_of({"max_mem_tot": tot, "max_mem_per_core": per_core})
        sizes = {"tot": self.size("max_mem_tot", tot, mem_to_kB)}
        sizes["per_core"] = self.size("max_mem_per_core", per_core, mem_to_kB)
        return next(((size, per) for per, size in sizes.items() if size is not None), None)

    def patterns(self, partitions: Any, queues: Any) -> list[str] | None:
        given = self.one_of({"partitions": partitions, "queues": queues})
        if given is None:
            return None
        name, value = given
        if not isinstance(value, (str, list, tuple, set, frozenset)):
            self.mistakes.append(f"{name}: {value!r} is neither a regular expression nor a list of them")
            return None
        patterns = [value] if isinstance(value, str) else list(value)
        if not patterns:
            self.mistakes.append(f"{name}: the list is empty: name a partition, or give None for any")
        for pattern in patterns:
            self.pattern(name, pattern)
        return patterns

    def pattern(self, name: str, pattern: Any) -> None:
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            self.mistakes.append(f"{name}: {pattern!r} is not a regular expression: {error}")

    def gpus(self, value: Any) -> int | None:
        if value is not None:
            self.integer("num_gpus", value, 0)
        return value  # type: ignore[no-any-return]

    def integer(self, name: str, value: Any, least: int) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            self.mistakes.append(f"{name}: {value!r} is not an integer of at least {least}")
