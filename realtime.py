"""Real time, for delays, waits and deadlines: it goes on while a test has frozen `time`."""

import functools
import time

# Seconds since some moment. freezegun replaces time.monotonic and time.perf_counter in every
# module that has them; it leaves clock_gettime alone, which Windows lacks.
if hasattr(time, "clock_gettime"):
    monotonic = functools.partial(time.clock_gettime, time.CLOCK_MONOTONIC)
else:
    monotonic = functools.partial(time.perf_counter)
