"""Simulate the system named by SIMULATED_SYSTEM in each Python process that imports this.

    SIMULATED_SYSTEM=windows PYTHONPATH=tests/systems python ...

SIMULATED_WITHOUT="os.link os.set_blocking" takes these away as well.
"""

import os

if os.environ.get("SIMULATED_SYSTEM") == "windows":
    import windows

    windows.simulate(os.environ.get("SIMULATED_WITHOUT", "").split())
elif os.environ.get("SIMULATED_SYSTEM") == "macos":
    import macos

    macos.simulate()
