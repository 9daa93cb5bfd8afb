"""What the disk of a directory gives, to hold against `qzo quantize`: its files are read as a whole, then
--write bytes are written and synced beside it, then both at once.

    python scripts/bench/disk_rate.py MODEL --write 3900000000

As root the system's file cache is dropped before each; otherwise read figures are the cache's.
"""

import argparse
import os
import threading
import time
from pathlib import Path

PIECE = 8 << 20


def read(directory):
    buffer = bytearray(PIECE)
    for path in sorted(directory.iterdir()):
        with open(path, "rb", buffering=0) as file:
            # Pages that are dropped at once are used again, which is faster than as many new ones.
            while count := file.readinto(buffer):
                os.posix_fadvise(file.fileno(), file.tell() - count, count, os.POSIX_FADV_DONTNEED)


def write(path, count):
    piece = os.urandom(PIECE)
    with open(path, "wb", buffering=0) as file:
        for i in range(count // PIECE):
            file.write(piece)
            if i % 32 == 31:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        os.fsync(file.fileno())
    path.unlink()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--write", type=int, default=1 << 30, metavar="BYTES")
    args = parser.parse_args()
    reading = (read, (args.model,))
    writing = (write, (args.model.with_name(f".{args.model.name}-disk-rate"), args.write))
    for label, work in [("read", [reading]), ("write", [writing]), ("both at once", [reading, writing])]:
        os.sync()
        if os.geteuid() == 0:
            Path("/proc/sys/vm/drop_caches").write_text("3")
        threads = [threading.Thread(target=what, args=of) for what, of in work]
        start = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(f"{label}: {time.monotonic() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
