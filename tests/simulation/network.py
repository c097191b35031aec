"""The simulated network between a process and a server: delays and losses in each direction."""

from random import Random


class Network:
    """The connection of one process to one server, in both directions."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.cut_there = self.cut_back = False
        self.slow = 0.0
        """The maximum additional delay of a message, in seconds."""
        self.straggling = 0.0
        """The share of writes that arrive seconds after the messages sent with them."""
        self.slow_back = 0.0
        """The additional delay of a reply, in seconds."""

    def there(self) -> float | None:
        """Return the delay of a message to the server, or None if it is lost."""
        return None if self.cut_there else self._delay()

    def straggle(self) -> float:
        """Return the additional delay of a write, in seconds."""
        is_straggler = self.straggling and self._random.random() < self.straggling
        return 2.2 + 12.0 * self._random.random() ** 2 if is_straggler else 0.0

    def back(self) -> float | None:
        """Return the delay of a message from the server, or None if it is lost."""
        return None if self.cut_back else self.slow_back + self._delay()

    def _delay(self) -> float:
        usual = 0.0002 + 0.001 * self._random.random() ** 3
        return usual + self.slow * self._random.random()
