"""How long a worker may take before it counts as stalled, from the sizes and times of this run's own units."""

_FACTOR = 20
_COLD_SECONDS_PER_MB = 3600.0
_READ_FACTOR = 10
_TELLING = 2**16


class Deadlines:
    """Allows a grace and so many seconds a MB: what was asked for, else 20 times the slowest so far.

    Before the first unit is done nothing is known about the model's speed, and an hour a MB is allowed.
    """

    def __init__(self, grace_s: float, seconds_per_mb: float | None) -> None:
        self._grace = grace_s
        self._asked = None if seconds_per_mb is None else seconds_per_mb / 2**20
        self._slowest: float | None = None

    def done(self, worked: int, seconds: float) -> None:
        """Takes note of a unit that took `seconds`, in which the model saw `worked` bytes.

        Units of which it saw little say nothing: those that were found done, or of bad records only.
        """
        if worked >= _TELLING:
            self._slowest = max(self._slowest or 0.0, seconds / worked)

    def whole(self, size: int) -> float:
        """Seconds for a unit of `size` bytes."""
        return self._grace + size * self._seconds_per_byte()

    def part(self, size: int, share: float, read_s: float) -> float:
        """Seconds for `share` of such a unit's rows, where reading the unit up to its end took `read_s`."""
        return self._grace + size * share * self._seconds_per_byte() + _READ_FACTOR * read_s

    def _seconds_per_byte(self) -> float:
        if self._asked is not None:
            return self._asked
        return _COLD_SECONDS_PER_MB / 2**20 if self._slowest is None else _FACTOR * self._slowest
