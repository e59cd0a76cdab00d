"""How fast a server may be asked, learned from its refusals to answer more (status 429)."""

import math

# Share by which an answer raises the rate: after each refusal a quarter of it, so that the rate is found quickly and
# then kept.
_RAISE, _LEAST_RAISE, _LOWER = 0.07, 0.001, 0.95


class Pace:
    """Requests a second that a server takes, no limit until it refuses one: first its answers a second between two
    refusals, then the geometric mean of that, too low, and the rate, too high. It also bounds the open requests."""

    def __init__(self) -> None:
        self._rate, self._raise = math.inf, _RAISE
        self._refused_at, self._answered = -math.inf, 0
        self.next = 0.0  # when the next request may be sent

    def send(self, now: float) -> None:
        """Records that a request was sent."""
        self.next = max(now, self.next) + 1 / self._rate

    def succeed(self) -> None:
        """Records an answer."""
        self._answered += 1
        self._rate *= 1 + self._raise

    def forget(self) -> None:
        """Begins to count anew: the server has been away."""
        self._refused_at, self._answered = -math.inf, 0

    def refuse(self, sent: float, now: float) -> bool:
        """Records that a request was refused; returns whether it is the first of those that were open together."""
        if sent < self._refused_at:
            return False
        if self._answered and math.isfinite(self._refused_at):
            rate = self._answered / (now - self._refused_at)
            if math.isfinite(self._rate):
                rate, self._raise = math.sqrt(rate * _LOWER * self._rate), max(self._raise / 4, _LEAST_RAISE)
            self._rate = min(rate, self._rate)
        self._refused_at, self._answered = now, 0
        return True
