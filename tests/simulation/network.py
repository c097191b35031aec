"""What lies between a process and a server: delays, and messages that are lost, each way."""

from random import Random


class Network:
    """The way from one process to one server, and back."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.cut_there = self.cut_back = False
        self.slow = 0.0
        """By so many seconds, at most, is a message late beyond what is usual."""
        self.straggling = 0.0
        """The share of writes that arrive seconds after all that was sent with them."""
        self.slow_back = 0.0
        """By so many seconds is what comes back late beyond that."""

    def there(self) -> float | None:
        """Return how long a message takes to the server; None if it is lost."""
        return None if self.cut_there else self._delay()

    def straggle(self) -> float:
        """Return by how many seconds a write arrives later than anything else."""
        straggles = self.straggling and self._random.random() < self.straggling
        return 2.2 + 12.0 * self._random.random() ** 2 if straggles else 0.0

    def back(self) -> float | None:
        """Return how long a message takes from the server; None if it is lost."""
        return None if self.cut_back else self.slow_back + self._delay()

    def _delay(self) -> float:
        usual = 0.0002 + 0.001 * self._random.random() ** 3
        return usual + self.slow * self._random.random()
