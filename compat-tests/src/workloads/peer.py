"""The other process: reads one JSON list a line, [verb, arguments...], and answers {"ok": value} or {"errno": name}.

What tests written in safe Rust cannot do themselves: ranges of fcntl locks, and maps.
"""
import errno, fcntl, json, mmap, os, struct, sys

files, maps = {}, {}
KINDS = {"read": fcntl.F_RDLCK, "write": fcntl.F_WRLCK, "none": fcntl.F_UNLCK}
FLOCKS = {"read": fcntl.LOCK_SH, "write": fcntl.LOCK_EX, "none": fcntl.LOCK_UN}
# struct flock of 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid.
FLOCK = "hhqqi4x"


def range_lock(command, handle, kind, start, length):
    packed = struct.pack(FLOCK, KINDS[kind], os.SEEK_SET, start, length, 0)
    return struct.unpack(FLOCK, fcntl.fcntl(files[handle], command, packed))


def open_file(handle, path, flags="rw"):
    mode = {"r": os.O_RDONLY, "w": os.O_WRONLY, "rw": os.O_RDWR}[flags]
    files[handle] = os.open(path, mode | (os.O_CREAT if "w" in flags else 0), 0o644)


def test(handle, kind, start, length):
    found = range_lock(fcntl.F_GETLK, handle, kind, start, length)
    return None if found[0] == fcntl.F_UNLCK else [found[2], found[3], found[4]]


def flock(handle, kind, wait=False):
    fcntl.flock(files[handle], FLOCKS[kind] | (0 if wait or kind == "none" else fcntl.LOCK_NB))


def add(path):
    """Adds 1 to the number in a file, under a lock; the number."""
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX)
        value = int(os.pread(fd, 32, 0) or b"0") + 1
        os.pwrite(fd, b"%020d" % value, 0)
        os.fsync(fd)
        fcntl.lockf(fd, fcntl.LOCK_UN)
        return value
    finally:
        os.close(fd)


def count(path, times):
    """Adds 1, so many times."""
    for _ in range(times):
        add(path)
    return times


def make_map(handle, length):
    maps[handle] = mmap.mmap(files[handle], length, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)


def poke(handle, offset, text):
    maps[handle][offset : offset + len(text)] = text.encode()


VERBS = {
    "pid": os.getpid,
    "open": open_file,
    "close": lambda handle: os.close(files.pop(handle)),
    "lock": lambda *words: range_lock(fcntl.F_SETLK, *words) and None,
    "wait_lock": lambda *words: range_lock(fcntl.F_SETLKW, *words) and None,
    "test": test,
    "flock": flock,
    "add": add,
    "count": count,
    "pread": lambda handle, length, offset: os.pread(files[handle], length, offset).decode("latin-1"),
    "pwrite": lambda handle, text, offset: os.pwrite(files[handle], text.encode(), offset),
    "fsync": lambda handle: os.fsync(files[handle]),
    "map": make_map,
    "peek": lambda handle, offset, length: maps[handle][offset : offset + length].decode("latin-1"),
    "poke": poke,
    "msync": lambda handle: maps[handle].flush(),
    "unmap": lambda handle: maps.pop(handle).close(),
}

for line in sys.stdin:
    verb, *words = json.loads(line)
    try:
        answer = {"ok": VERBS[verb](*words)}
    except OSError as error:
        answer = {"errno": errno.errorcode.get(error.errno, str(error.errno))}
    print(json.dumps(answer), flush=True)
