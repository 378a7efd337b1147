"""Encoders of numpy's and ASE's types, found by name when one is met."""

from __future__ import annotations

from typing import Any, Final

from expyre.identity.encoder import Encoder, Unstable, mapping
from expyre.identity.reduced import attribute_writer, write_state, write_type
from expyre.identity.registry import same_as, writes

_heads: dict[Any, bytes] = {}
_TRANSIENT: Final = frozenset({"atoms", "results", "nl", "get_spin_polarized"})


@writes("numpy:ndarray")
def _ndarray(enc: Encoder, value: Any) -> None:
    cls = type(value)
    if cls.__name__ not in {"ndarray", "memmap"}:
        base = next(base for base in cls.__mro__ if base.__name__ == "ndarray")
        enc.out += b"Q"
        write_type(enc, cls)
        write_state(enc, {"mask": getattr(value, "mask", None), **getattr(value, "__dict__", {})})
        value = value.filled() if hasattr(value, "filled") else value
        value = value.view(base)
    write_array(enc, value)


def write_array(enc: Encoder, value: Any) -> None:
    """Append an array: kind and size of its numbers, shape, and its elements in C order."""
    dtype = value.dtype
    key = (dtype, value.shape)
    head = _heads.get(key)
    if head is None:
        head = _head(dtype, value.shape)
    enc.out += head
    kind = dtype.kind
    if kind in "fc":
        _floats(enc, value, dtype)
    elif kind in "biuSUmM":
        _block(enc, value if dtype.isnative else value.astype(dtype.newbyteorder("=")))
    elif dtype.names is not None:
        _fields(enc, value, dtype)
    elif kind == "V" and not dtype.hasobject:
        _block(enc, value)
    else:
        _elements(enc, value)


def _head(dtype: Any, shape: tuple[int, ...]) -> bytes:
    named = f"{dtype.str[1:]} {dtype.name}" if dtype.kind == "V" else dtype.str[1:]
    text = f"{'O' if dtype.hasobject else named}{shape}".encode()
    head = b"n%d:" % len(text) + text
    if len(_heads) < 10_000:
        _heads[dtype, shape] = head
    return head


def _block(enc: Encoder, value: Any) -> None:
    size = value.nbytes
    if size < 65536 or not value.flags.c_contiguous:
        enc.raw(value.tobytes(), size)
    else:
        enc.raw(value.reshape(-1).view("u1").data, size)


def _floats(enc: Encoder, value: Any, dtype: Any) -> None:
    if dtype.itemsize > (8 if dtype.kind == "f" else 16):
        # Wider floats carry bytes that mean nothing; their shortest decimal form is exact.
        enc.write([str(item) for item in value.ravel()])
        return
    if not dtype.isnative:
        value = value.astype(dtype.newbyteorder("="))
    if _has_nan(value):
        value = _one_nan(value, dtype)
    _block(enc, value)


def _has_nan(value: Any) -> bool:
    # The quickest way to look at a small array.
    return b"\1" in (value != value).tobytes()


def _one_nan(value: Any, dtype: Any) -> Any:
    value = value.copy(order="C")
    parts = (value.real, value.imag) if dtype.kind == "c" else (value,)
    for part in parts:
        part[part != part] = float("nan")
    return value


def _fields(enc: Encoder, value: Any, dtype: Any) -> None:
    for name in dtype.names:
        enc.text(name)
        try:
            write_array(enc, value[name])
        except Unstable as error:
            raise error.at(f"[{name!r}]") from None


def _elements(enc: Encoder, value: Any) -> None:
    enc.nested(value, lambda inner, array: inner.write(array.ravel().tolist()))


@writes("numpy:dtype")
def _dtype(enc: Encoder, value: Any) -> None:
    enc.out += b"a"
    if value.names is None and value.subdtype is None:
        enc.text(value.str if value.kind != "V" else f"{value.str} {value.name}")
        return
    fields = value.names and [(name, *value.fields[name][:2]) for name in value.names]
    enc.write([value.itemsize, value.subdtype, fields])


# ---- numpy scalars: where Python has the same type, they are the same value

same_as(bool, "numpy:bool_", "numpy:bool")
same_as(int, "numpy:int64", "numpy:longlong")
same_as(float, "numpy:float64")
same_as(complex, "numpy:complex128")
same_as(str, "numpy:str_")
same_as(bytes, "numpy:bytes_")


@writes("numpy:generic")
def _scalar(enc: Encoder, value: Any) -> None:
    enc.out += b"z"
    write_array(enc, value.reshape(()) if value.dtype.names is None else value)


# ---- random streams, by their state


@writes("numpy.random._generator:Generator")
def _generator(enc: Encoder, value: Any) -> None:
    enc.out += b"H"
    _bit_generator(enc, value.bit_generator)


@writes("numpy.random.bit_generator:BitGenerator")
def _bit_generator(enc: Encoder, value: Any) -> None:
    enc.out += b"J"
    enc.reference(type(value))
    enc.write(value.state)
    seed = getattr(value, "seed_seq", None) or getattr(value, "_seed_seq", None)
    enc.write(getattr(seed, "state", None))


@writes("numpy.random.bit_generator:SeedSequence")
def _seed_sequence(enc: Encoder, value: Any) -> None:
    enc.out += b"j"
    enc.write(value.state)


@writes("numpy.random.mtrand:RandomState")
def _random_state(enc: Encoder, value: Any) -> None:
    enc.out += b"+"
    enc.write(value.get_state(legacy=False))


# ---- ASE


@writes("ase.atoms:Atoms")
def _atoms(enc: Encoder, value: Any) -> None:
    enc.out += b"@"
    if type(value).__name__ != "Atoms" or not type(value).__module__.startswith("ase."):
        write_type(enc, type(value))
    enc.nested(value, _write_atoms)


def _write_atoms(enc: Encoder, value: Any) -> None:
    state = value.__dict__
    arrays = state["arrays"]
    enc.out += state["_cellobj"].array.tobytes() + state["_pbc"].tobytes() + state["_celldisp"].tobytes()
    try:
        for name in sorted(arrays):
            enc.text(name)
            enc.write(arrays[name])
    except Unstable as error:
        raise error.at(f".arrays[{name!r}]") from None
    enc.out += b";"
    _attribute(enc, "info", state["info"])
    _attribute(enc, "constraints", value.constraints)
    calc = state.get("_calc")
    if calc is not None:
        _attribute(enc, "calc", calc)
        _calculated_for(enc, calc, value)
    if not state.keys() <= _ATOMS:
        enc.out += b","
        write_state(enc, {name: item for name, item in state.items() if name not in _ATOMS})


def _attribute(enc: Encoder, name: str, value: Any) -> None:
    if not value and type(value) in (list, dict):
        enc.out += b"-"
        return
    try:
        enc.write(value)
    except Unstable as error:
        raise error.at(f".{name}") from None


_ATOMS: Final = frozenset({"arrays", "info", "_cellobj", "_pbc", "_celldisp", "_constraints", "_calc", "constraints"})


def _calculated_for(enc: Encoder, calc: Any, value: Any) -> None:
    """Append the configuration that stored results belong to, if it is not the one that carries them."""
    other = getattr(calc, "atoms", None)
    if not _stored(type(calc)) or other is None or other is value:
        return
    for name in ("numbers", "positions", "pbc"):
        if getattr(other, name).tobytes() != getattr(value, name).tobytes():
            enc.out += b"!"
            enc.write(other)
            return


def _stored(cls: type) -> bool:
    return cls.__module__ == "ase.calculators.singlepoint"


@writes("ase.cell:Cell")
def _cell(enc: Encoder, value: Any) -> None:
    enc.out += b"*"
    write_array(enc, value.array)


def _results(value: Any) -> dict[str, Any]:
    return _without(value.__dict__, _TRANSIENT - {"results"})


def _settings(value: Any) -> dict[str, Any]:
    """Return what a calculator was made with, not what it keeps from its last calculation."""
    own = getattr(type(value), "__getstate__", None)
    if own is not None and own is not getattr(object, "__getstate__", None):
        state = value.__getstate__()
        return _without(state, _TRANSIENT) if isinstance(state, dict) else {"state": state}
    return _without(value.__dict__, _TRANSIENT)


def _parameters_only(value: Any) -> dict[str, Any]:
    known = type(value).__module__.startswith("ase.calculators.")
    return {"parameters": dict(value.parameters)} if known else _settings(value)


def _without(state: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    rest = {name: item for name, item in state.items() if name not in names}
    if isinstance(rest.get("parameters"), dict):
        rest["parameters"] = dict(rest["parameters"])
    return rest


_BASES: Final = ("ase.calculators.calculator:BaseCalculator", "ase.calculators.calculator:Calculator")
_CONSTRAINTS: Final = ("ase.constraints:FixConstraint", "ase.constraints.constraint:FixConstraint")
# These keep what they derived from the parameters under names that a new calculator does not have yet.
_KNOWN: Final = ("ase.calculators.emt:EMT", "ase.calculators.lj:LennardJones", "ase.calculators.morse:MorsePotential")
writes("ase.calculators.singlepoint:SinglePointCalculator")(attribute_writer(b"=", _results, data="ase"))
writes(*_CONSTRAINTS)(attribute_writer(b"=", vars, data="ase"))
writes(*_BASES)(attribute_writer(b"=", _settings))
writes(*_KNOWN)(attribute_writer(b"=", _parameters_only))


@writes("ase.calculators.calculator:Parameters")
def _parameters(enc: Encoder, value: Any) -> None:
    enc.nested(value, mapping)
