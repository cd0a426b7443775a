"""Sets the clock of a test's own Redis server, without touching the machine's.

A small library, loaded into the server before the C library, adds an offset to each time that the server
reads. The offset lies in a file that the tests write.
"""

import functools
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

_SOURCE = """\
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int64_t nothing;
static volatile int64_t *offset = &nothing;

__attribute__((constructor)) static void begin(void) {
    int file = open(getenv("LA_CLOCK_OFFSET"), O_RDONLY);
    if (file < 0) abort();
    offset = mmap(0, sizeof nothing, PROT_READ, MAP_SHARED, file, 0);
    if (offset == MAP_FAILED) abort();
}

int gettimeofday(struct timeval *now, void *zone) {
    static int (*real)(struct timeval *, void *);
    if (!real) real = dlsym(RTLD_NEXT, "gettimeofday");
    int result = real(now, zone);
    now->tv_sec += *offset;
    return result;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) now->tv_sec += *offset;
    return result;
}

time_t time(time_t *out) {
    struct timeval now;
    gettimeofday(&now, 0);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
"""


class SettableClock:
    """The clock of one server.

    Args:
        folder: a folder for the offset's file.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock-offset"
        self._seconds = 0
        self._write()

    @property
    def environ(self) -> dict[str, str]:
        """The server's environment variables."""
        return {"LD_PRELOAD": str(_library()), "LA_CLOCK_OFFSET": str(self._file)}

    def jump(self, seconds: int) -> None:
        """Set the clock forward, or back if the number is negative."""
        self._seconds += seconds
        self._write()

    def _write(self) -> None:
        # The file must not be replaced or shortened, because the server has mapped it.
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(struct.pack("=q", self._seconds))


@functools.cache
def _library() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="la-clock-"))
    source, library = folder / "clock.c", folder / "clock.so"
    source.write_text(_SOURCE)
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler is not None, "setting the clock of a Redis needs a C compiler (`.ci/install-debian`)"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library
