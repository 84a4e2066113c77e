"""A log file that is renamed when it is full: `path`.1 is the newest of the old ones, or, compressed, `path`.1.gz.

Compressing is a child process's work, so that the container does not wait for it. What a kill leaves is the plain file,
or both of them (then the plain one counts), or beside it a beginning named `path`.gz.tmp that counts for nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sampan.runtime.loop import Loop

_COPY = 1 << 20


class RotatingFile:
    """Opening repairs a line that a crash left half written. One writer at a time; not thread-safe.

    `max_size` in bytes, None for no rotation: a file that has reached it is not written to any more, so that it can
    exceed it by one record. `max_file` counts the current file too.
    """

    def __init__(self, path: str, max_size: int | None, max_file: int, *, compress: bool = False) -> None:
        self._path = path
        self._max_size = max_size
        self._max_file = max(1, max_file)
        self._torn = False
        self._descriptor = -1
        self._size = 0
        self._open()
        self._compressor = Compressor(path, self._max_file) if compress and max_file > 1 else None
        if self._compressor is not None:
            self._compressor.begin()

    def join(self, loop: Loop) -> None:
        """Hear of the end of compressing by `loop`, instead of with the next rotation."""
        if self._compressor is not None:
            self._compressor.join(loop)

    def append(self, record: bytes) -> None:
        """Raises OSError when the file can't be written (a full disk); the next record can be tried."""
        try:
            if self._max_size is not None and self._size >= self._max_size:
                self._rotate()
            if self._torn:
                record = b"\n" + record
            while record:
                # Less than everything is written when the disk is full.
                self._torn = True
                written = os.write(self._descriptor, record)
                self._size += written
                record = record[written:]
            self._torn = False
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._path) from error

    def close(self) -> None:
        """Compressing that is under way ends unfinished; the next to open the log begins it anew."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._compressor is not None:
            self._compressor.stop()

    @property
    def closed(self) -> bool:
        return self._descriptor < 0

    def _open(self) -> None:
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._size = os.fstat(self._descriptor).st_size
        self._torn = self._size > 0 and os.pread(self._descriptor, 1, self._size - 1) != b"\n"

    def _rotate(self) -> None:
        """Each file takes the name of the next older; the oldest goes. Readers follow by descriptor."""
        if self._max_file == 1:
            os.ftruncate(self._descriptor, 0)
            self._size, self._torn = 0, False
            return
        if self._compressor is not None:
            self._compressor.poll()
        # Without a current file the last try had come this far: the older ones have their new names already.
        if os.path.lexists(self._path):
            self._rename_all()
        full = self._descriptor
        self._open()  # when this fails (a full disk) the old descriptor is still the one that is closed at the end
        os.close(full)
        if self._compressor is not None:
            self._compressor.begin()

    def _rename_all(self) -> None:
        compressed = self._compressor is not None
        if compressed:
            # The oldest may have another form than the one that takes its name.
            for name in slot(self._path, self._max_file - 1):
                _remove(name)
        for number in range(self._max_file - 1, 1, -1):
            newer = slot(self._path, number - 1)
            for source, target in zip(newer, slot(self._path, number), strict=True):
                if source.endswith(".gz") and not compressed:
                    continue
                try:
                    os.rename(source, target)
                except FileNotFoundError:
                    pass
        os.rename(self._path, f"{self._path}.1")
        if self._compressor is not None:
            self._compressor.moved()


def slot(path: str, number: int) -> tuple[str, str]:
    """The names that an old file may have: plain, compressed."""
    return f"{path}.{number}", f"{path}.{number}.gz"


def _remove(name: str) -> None:
    try:
        os.unlink(name)
    except FileNotFoundError:
        pass


class Compressor:
    """Compresses old files, one after the other, each in a child process; finished ones get their name here.

    A file that is rotated away before its turn came stays as it is, or goes. So does one that can't be compressed (a
    full disk, no process to be had): it is read as well as it is. The next rotation tries again, nothing before it.
    No method but the constructor raises OSError: neither lines nor the container are lost over it.
    """

    def __init__(self, path: str, max_file: int) -> None:
        self._path = path
        self._temporary = f"{path}.gz.tmp"
        self._max_file = max_file
        self._loop: Loop | None = None
        self._pid = 0
        self._pidfd = -1
        self._number = 0
        _remove(self._temporary)

    def join(self, loop: Loop) -> None:
        self._loop = loop
        self._watch()

    def begin(self) -> None:
        """Take up the newest file that is not compressed, unless one is being compressed."""
        if self._pid:
            return
        for number in range(1, self._max_file):
            plain, compressed = slot(self._path, number)
            if os.path.lexists(plain):
                self._start(plain, compressed, number)
                return

    def moved(self) -> None:
        """All files have got the next older name."""
        self._number += 1

    def poll(self) -> bool:
        """Give a file that is finished its name, without waiting; whether there was one."""
        if not self._pid:
            return False
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        return bool(pid) and self._ended(status)

    def stop(self) -> None:
        self.poll()
        if self._pid:
            self._kill()

    def _start(self, plain: str, compressed: str, number: int) -> None:
        source = target = -1
        try:
            _remove(compressed)  # the same, from before a kill
            source = os.open(plain, os.O_RDONLY | os.O_CLOEXEC)
            _remove(self._temporary)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            target = os.open(self._temporary, flags, 0o640)
            pid = os.fork()
            if pid == 0:
                _compress(source, target)
            self._pid, self._number = pid, number
            self._pidfd = os.pidfd_open(pid)
            self._watch()
        except OSError:
            if self._pid:
                self._kill()
            else:
                self._discard()
        finally:
            for descriptor in (source, target):
                if descriptor >= 0:
                    os.close(descriptor)

    def _watch(self) -> None:
        if self._loop is not None and self._pid:
            from sampan.runtime.loop import READ

            self._loop.watch(self._pidfd, READ, lambda _events: self._finished())

    def _finished(self) -> None:
        if self.poll():
            self.begin()

    def _ended(self, status: int) -> bool:
        number = self._number
        self._forget()
        if status == 0 and number < self._max_file:
            plain, compressed = slot(self._path, number)
            try:
                os.rename(self._temporary, compressed)
                _remove(plain)
            except OSError:
                self._discard()
                return False
            return True
        self._discard()
        return status == 0

    def _kill(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        self._forget()
        self._discard()

    def _discard(self) -> None:
        """What was compressed up to now; what can't be removed goes with the next try."""
        with contextlib.suppress(OSError):
            _remove(self._temporary)

    def _forget(self) -> None:
        if self._pidfd >= 0:
            if self._loop is not None:
                self._loop.forget(self._pidfd)
            os.close(self._pidfd)
        self._pid, self._pidfd = 0, -1


def _compress(source: int, target: int) -> None:
    """The child: does not return. Nothing of it is told but by its exit code."""
    code = 1
    try:
        from sampan.linux import process

        process.close_except({source, target})
        os.nice(10)
        # Here, so that only the child has it.
        import zlib

        packer = zlib.compressobj(6, zlib.DEFLATED, 31)
        at = 0
        while block := os.pread(source, _COPY, at):
            at += len(block)
            _write_all(target, packer.compress(block))
        _write_all(target, packer.flush())
        os.fsync(target)
        code = 0
    finally:
        os._exit(code)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
