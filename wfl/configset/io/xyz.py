"""Extended XYZ."""
from __future__ import annotations
import io
from wfl.configset.io.through_ase import ASEReader
from wfl.configset.io.sink import Sink
from wfl.configset.locations import shallow_copy

class XYZReader(ASEReader):
    pass

class XYZWriter:
    resumable = True
    def __init__(self, path, compression, kwargs, *, resume):
        self._sink = Sink(path, compression, resume=resume)
        self._kwargs = kwargs
    @property
    def offset(self): return self._sink.offset
    def write(self, atoms, info):
        import ase.io.extxyz
        at = shallow_copy(atoms); at.info = info
        f = io.StringIO()
        ase.io.extxyz.write_xyz(f, at, **self._kwargs)
        self._sink.write(f.getvalue().encode())
    def flush(self): self._sink.flush()
    def position(self): return self._sink.boundary()
    def close(self): self._sink.close()
