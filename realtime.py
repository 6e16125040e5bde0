"""Real time, for delays, waits and deadlines: it goes on while a test has frozen `time`."""

from fense_admin import systems

# Seconds since some moment. freezegun replaces time.monotonic and time.perf_counter in every
# module that has them; it doesn't know these.
monotonic = systems.clock
