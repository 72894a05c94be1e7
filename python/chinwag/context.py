"""What a call is told beside its batch."""

from __future__ import annotations

__all__ = ["Context"]


class Context:
    """The second argument of a handler that takes two.

    It belongs to one call; after its end it only tells how things stood.
    """

    __slots__ = ("_attempt", "_ending")

    def __init__(self, attempt: int) -> None:
        self._attempt = attempt
        self._ending: str | None = None

    @property
    def attempt(self) -> int:
        """Which attempt at its batch this call is, from 1."""
        return self._attempt

    @property
    def ending(self) -> str | None:
        """Why this call is to end, from the moment that is decided; None until then.

        `closed`: the queue closes and waits no longer. `cancelled`: somebody else cancelled it. A
        plain function cannot be cancelled, so one that takes long should look here now and then.
        """
        return self._ending

    def __repr__(self) -> str:
        ending = f", ending: {self._ending}" if self._ending else ""
        return f"<Context: attempt {self._attempt}{ending}>"
