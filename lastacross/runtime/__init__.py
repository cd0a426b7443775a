"""What runs things: the processes, what they deliver, and who looks after them.

An application may use what stands here, the rest is the engine's: ``from lastacross import runtime``.
"""

from lastacross.runtime.hooks import is_shutting_down, set_shutdown_hook

__all__ = ["is_shutting_down", "set_shutdown_hook"]
