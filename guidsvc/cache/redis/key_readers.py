"""The current readers of each key: L1 must not store what they read once the key is written in this process."""

from types import TracebackType


class KeyReaders:
    """The current readers of a key. `is_invalidated`: the key is being written, so L1 must not store their result."""

    __slots__ = ("count", "is_invalidated")

    def __init__(self) -> None:
        self.count = 0
        self.is_invalidated = False


class RegisteredReader:
    """Registers a reader of a key for the block; its `KeyReaders` shows whether the key is written meanwhile."""

    __slots__ = ("_all_readers", "_guid", "_readers")

    def __init__(self, all_readers: dict[str, KeyReaders], guid: str) -> None:
        self._all_readers = all_readers
        self._guid = guid

    def __enter__(self) -> KeyReaders:  # noqa: D105  # see the class
        readers = self._all_readers.get(self._guid)
        if readers is None:
            readers = self._all_readers[self._guid] = KeyReaders()
        self._readers = readers
        readers.count += 1
        return readers

    def __exit__(  # noqa: D105
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._readers.count -= 1
        if not self._readers.count:
            del self._all_readers[self._guid]
