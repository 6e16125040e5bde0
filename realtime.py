"""Real time, for delays, waits and deadlines. It continues while a test has frozen `time`."""

from fense_admin import systems

# A monotonic clock in seconds. freezegun replaces time.monotonic and time.perf_counter in every
# module that has them, but not this one.
monotonic = systems.clock
