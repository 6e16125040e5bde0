"""The pytest plugin: `fense`, a stand-in for Fense's API that is reset before each test.

It imports nothing of the service until a fixture is used. pytest loads it in every run, so it must
work with old versions: 6.2.5 is the oldest that runs on Python 3.10.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from fense_admin.standin import StandIn


USED = "_fense_admin_used"  # attribute of a test: the stand-in that it uses


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Add the requests of a failed test, and the faults it never used, to its report."""
    outcome = yield
    report = outcome.get_result()
    fense: StandIn | None = getattr(item, USED, None)
    if report.failed and fense is not None and (text := fense.report()):
        report.sections.append(("requests to fense", text))


@pytest.fixture(scope="session")
def fense_options() -> dict[str, Any]:
    """Return the keyword arguments of the session's `StandIn`. Override it to change them."""
    return {}


@pytest.fixture(scope="session")
def _fense_servers() -> Iterator[Callable[[dict[str, Any]], StandIn]]:
    """Return the session's `StandIn` for given options; folders may override them differently."""
    started: list[tuple[dict[str, Any], StandIn]] = []
    with contextlib.ExitStack() as stack:

        def server(options: dict[str, Any]) -> StandIn:
            for known, running in started:
                if known == options:
                    return running
            from fense_admin.standin import StandIn

            # A copy, as the caller may change the dictionary.
            started.append((copy.deepcopy(options), stack.enter_context(StandIn(**options))))
            return started[-1][1]

        yield server


@pytest.fixture(scope="session")
def fense_server(
    _fense_servers: Callable[[dict[str, Any]], StandIn], fense_options: dict[str, Any]
) -> StandIn:
    """One `StandIn` for the session (for each worker, under pytest-xdist)."""
    return _fense_servers(fense_options)


@pytest.fixture
def fense(
    request: pytest.FixtureRequest,
    _fense_servers: Callable[[dict[str, Any]], StandIn],
    fense_options: dict[str, Any],
) -> StandIn:
    """The session's `StandIn`, reset before the test."""
    server = _fense_servers(fense_options)
    server.reset()
    setattr(request.node, USED, server)
    return server
