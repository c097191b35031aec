"""What lies between a process and a server: delays, and messages that are lost, each way."""

from random import Random


class Network:
    """The way from one process to one server, and back."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.cut_there = self.cut_back = False
        self.slow = 0.0
        """By so many seconds, at most, is a message late beyond what is usual."""

    def there(self) -> float | None:
        """Return how long a message takes to the server; None if it is lost."""
        return None if self.cut_there else self._delay()

    def back(self) -> float | None:
        """Return how long a message takes from the server; None if it is lost."""
        return None if self.cut_back else self._delay()

    def _delay(self) -> float:
        usual = 0.0002 + 0.001 * self._random.random() ** 3
        return usual + self.slow * self._random.random()
