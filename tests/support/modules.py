"""Applications of tests, each with a ``main`` of its own, in one process."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
OUR_APPLICATION = {"programs", *(path.stem for path in ROOT.glob("*.py"))}


@contextlib.contextmanager
def own_modules(root: Path) -> Iterator[None]:
    """Import the application of this folder; at the end it is forgotten, and ours is as it was.

    Our own application's modules are put back, not imported again: their tables exist once.
    """
    path = list(sys.path)
    own = [name for name in sys.modules if name.partition(".")[0] in OUR_APPLICATION]
    ours = {name: sys.modules.pop(name) for name in own}
    before = set(sys.modules)
    try:
        yield
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", "") or "").startswith(str(root)):
                del sys.modules[name]
        sys.modules.update(ours)
