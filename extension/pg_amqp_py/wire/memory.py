"""Memory for large messages, so that they cost few page faults.

A fault comes with every 4 KB of memory that is new to a process, and that is three times what it
takes to copy as much. So what is small enough is kept for the next transaction, and for what is
not, the kernel is asked for huge pages (madvise(2), MADV_HUGEPAGE): one fault for 2 MB. A kernel
that has none to give gives small ones.
"""

from __future__ import annotations

import mmap

_HUGE_PAGE = 1 << 21
_WORTH_GIVING_BACK = 4 * _HUGE_PAGE
_FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


def keep_freed_memory(size: int) -> None:
    """Have malloc keep twice as many bytes that are free at the end of its heap, from now on.

    glibc does by itself, once so many that it had mapped are freed (mallopt(3), M_MMAP_THRESHOLD);
    if it never had to map as many, it maps and unmaps, or gives back, the memory of each message.
    """
    # Nobody writes to it, so it is no memory yet.
    bytes(size)


class Arena:
    """Bytes that are appended, and forgotten from the end: what streams do with a bytearray."""

    def __init__(self, beginning: bytearray) -> None:
        """`beginning` is copied. Raises MemoryError."""
        try:
            self._memory = mmap.mmap(-1, _reserved(len(beginning)), flags=_FLAGS)
        except OSError as error:
            raise MemoryError from error
        try:
            self._memory.madvise(mmap.MADV_HUGEPAGE)
        except OSError:
            # A kernel that was built without them.
            pass
        self._memory.write(beginning)

    def __len__(self) -> int:
        return self._memory.tell()

    def __iadd__(self, data: bytes | memoryview) -> Arena:
        """Append bytes. Raises MemoryError, having appended nothing."""
        try:
            self._memory.write(data)
        except ValueError:
            # It would go beyond the end.
            self._reserve(len(self) + len(data))
            self._memory.write(data)
        return self

    def __delitem__(self, behind: slice) -> None:
        """Forget what is from an offset on: `del arena[offset:]`."""
        self._memory.seek(behind.start)
        kept = (len(self) // _HUGE_PAGE + 1) * _HUGE_PAGE
        if len(self._memory) - kept >= _WORTH_GIVING_BACK:
            try:
                self._memory.resize(kept)
            except OSError:
                # What cannot be given back is used again.
                pass

    def view(self) -> memoryview:
        """All bytes, where they are. As long as somebody has it, the end cannot be moved."""
        return memoryview(self._memory)[: len(self)]

    def _reserve(self, size: int) -> None:
        try:
            self._memory.resize(_reserved(size))
        except OSError as error:
            raise MemoryError from error


def _reserved(size: int) -> int:
    """Bytes to reserve for so many, and for more to come. Only what is written takes memory."""
    return (size * 3 // 2 // _HUGE_PAGE + 1) * _HUGE_PAGE
