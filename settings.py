"""Settings and limits, each decided once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What clients may use. Raises `ValueError` where two limits contradict each other."""

    body: int = 64 * 1024  # bytes of a body of the contract
    state_body: int = 32 * 1024 * 1024  # bytes of a body of the control plane, with the master key
    read_body: int = 128 * 1024  # bytes that are read of a body, so that an application refuses it
    header: int = 16 * 1024  # bytes of request line and headers together
    connections: int = 500  # open at the same time; for those beyond, one that is idle is closed
    waiting: int = 400  # requests that wait for a delay: the other connections are for others
    idle: float = (
        30  # seconds in which a connection brings a whole request, or takes a part of a response
    )

    def __post_init__(self) -> None:
        for low, high in (
            ("body", "read_body"),
            ("body", "state_body"),
            ("waiting", "connections"),
        ):
            if getattr(self, low) >= getattr(self, high):
                raise ValueError(f"the limit {low} must be below the limit {high}")
