"""Compiled loops over columns of UTF-8 text. The only rooms that import numba.

numba keeps what it compiled, but does not notice when a function in another file changed that was
built in. So what is kept lies in a folder named after the hash of all these files.
"""

import hashlib
import os
from pathlib import Path


def _cache_folder() -> Path:
    """Returns where compiled loops are kept: beside the package, or in the user's cache."""
    here = Path(__file__).parent
    sources = b"".join(path.read_bytes() for path in sorted(here.glob("*.py")))
    name = f"kernels-{hashlib.sha256(sources).hexdigest()[:16]}"
    beside = here / "__pycache__"
    if os.access(beside if beside.is_dir() else here, os.W_OK):
        return beside / name
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "chatlm" / name


os.environ.setdefault("NUMBA_CACHE_DIR", str(_cache_folder()))
