"""Lets several test applications, each with its own ``main``, run in one process."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
OUR_APPLICATION = {"programs", *(path.stem for path in ROOT.glob("*.py"))}


@contextlib.contextmanager
def own_modules(root: Path) -> Iterator[None]:
    """Let this folder's application be imported. At the end, it is forgotten and ours is restored.

    Our application's modules are put back, not imported again, because their tables can exist only once.
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
