"""Leaves only so much of a card's memory to other programs, as a smaller card would have, until its standard
input is closed. Prints one line once the rest is held. Needs the NVIDIA driver and nothing else.

    python3 scripts/bench/hold_memory.py --leave 24
"""

import argparse
import ctypes
import sys


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--leave", type=float, default=24, metavar="GB")
    parser.add_argument("--card", type=int, default=0)
    args = parser.parse_args()
    driver = ctypes.CDLL("libcuda.so.1")

    def call(name: str, *arguments) -> None:
        status = getattr(driver, name)(*arguments)
        if status != 0:
            sys.exit(f"{name} answers {status}")

    device, context, pointer = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    call("cuInit", ctypes.c_uint(0))
    call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(args.card))
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    call("cuCtxSetCurrent", context)
    call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    held = free.value - int(args.leave * 1e9)
    if held > 0:
        call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(held))
        call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    print(f"{max(0, held) / 1e9:.1f} GB held, {free.value / 1e9:.1f} of {total.value / 1e9:.1f} GB free", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
