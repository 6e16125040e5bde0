"""The pytest plugin: `fense`, a stand-in for Fense's API that is clean before each test.

It imports no part of the service until a fixture is asked for. pytest loads it in every run of an
environment, so nothing here may need a new pytest: 6.2.5 is the oldest that runs on Python 3.10.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from fense_admin.standin import StandIn


USED = "_fense_admin_used"  # attribute of a test: what its `fense` is


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Adds to the report of a failed test what it sent, and which armed faults it never used."""
    outcome = yield
    report = outcome.get_result()
    fense: StandIn | None = getattr(item, USED, None)
    if report.failed and fense is not None and (text := fense.report()):
        report.sections.append(("requests to fense", text))


@pytest.fixture(scope="session")
def fense_options() -> dict[str, Any]:
    """The keyword arguments of the session's `StandIn`; override it to change them."""
    return {}


@pytest.fixture(scope="session")
def _fense_servers() -> Iterator[Callable[[dict[str, Any]], StandIn]]:
    """The session's `StandIn` for some options: one each, should folders override them apart."""
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
