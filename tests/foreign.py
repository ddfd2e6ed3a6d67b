"""A client of fsb-host in another language, written from the doc block of fsb_chunk.h alone.

    foreign.py SOCKET SHARE FOLDER     compares the share with FOLDER, byte for byte

It proves that the wire is documented, and that it does not change unnoticed."""
import os, socket, struct, sys, zlib

STAT, READLINK, LIST, OPEN, READ, WRITE, CLOSE, UNLINK, RENAME, PUT, LOCK, HELLO, PING = \
    1, 2, 3, 4, 5, 6, 8, 10, 12, 26, 27, 0x100, 0x104
STAT_FIELDS = struct.Struct("<5Q4q8I")  # 104 bytes, as fsb_stat


class Failed(Exception):
    pass


class Host:
    def __init__(self, path, share, low=1, high=1, flags=0):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(path)
        self.tag = 0
        meta = struct.pack("<HHI16s", low, high, flags, os.urandom(16))
        meta += self.text(share) if share else bytes(2)
        meta, _, _ = self.call(HELLO, meta)
        self.version, self.rights, self.in_flight, self.boot, self.ops, self.most = \
            struct.unpack_from("<HHIQQI", meta)

    @staticmethod
    def text(value):
        value = os.fsencode(value) + b"\0"
        return struct.pack("<H", len(value)) + value

    def receive(self, size):
        data = b""
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            if not part:
                raise Failed("the host hung up")
            data += part
        return data

    def frame(self, op, meta, data=b""):
        meta += bytes(-len(meta) % 8)
        head = struct.pack("<IIIHHQi", 0x31425346, len(meta), len(data), op, 0, self.tag, 0)
        return head + struct.pack("<I", zlib.crc32(meta, zlib.crc32(head))) + meta + data

    def call(self, op, meta, data=b""):
        self.tag += 1
        self.socket.sendall(self.frame(op, meta, data))
        return self.answer(op)

    def answer(self, op):
        head = self.receive(32)
        magic, m, d, code, flags, tag, status, crc = struct.unpack("<IIIHHQiI", head)
        meta, data = self.receive(m), self.receive(d)
        assert magic == 0x31425346 and code == op and tag == self.tag and flags & 1
        assert crc == zlib.crc32(meta, zlib.crc32(head[:28]))
        if status < 0:
            raise Failed(os.strerror(-status))
        if flags & 2:
            good = struct.unpack("<q", data[-8:])[0]
            assert good >= 0
            data, status = data[:good], good
        return meta, data, status

    # FILE_ID, HANDLE, ..., PATH in the order of the fields' table
    def stat(self, path):
        meta, _, _ = self.call(STAT, struct.pack("<QQ", 0, 0) + self.text(path))
        return STAT_FIELDS.unpack_from(meta)

    def list(self, path):
        cookie, end = 0, 0
        while not end:
            _, data, end = self.call(
                LIST, struct.pack("<IQQQI", 1, 0, 0, cookie, 65536) + self.text(path))
            at = 0
            while at < len(data):
                cookie, = struct.unpack_from("<Q", data, at)
                stat = STAT_FIELDS.unpack_from(data, at + 8)
                size, = struct.unpack_from("<H", data, at + 112)
                yield os.fsdecode(data[at + 114:at + 114 + size]), stat
                at += 114 + size

    def read(self, path):
        attr = bytes(48)
        meta, _, _ = self.call(OPEN, struct.pack("<IQI", 1, 0, 0) + attr + self.text(path))
        handle, = struct.unpack_from("<Q", meta)  # HANDLE stands before STAT
        content, size = b"", 1 << 20
        while True:
            _, data, count = self.call(READ, struct.pack("<QQI", handle, len(content), size))
            content += data
            if count < size:
                break
        self.call(CLOSE, struct.pack("<Q", handle))
        return content

    def scribble(self, path):
        """Makes a file, locks it, writes, reads, moves and removes it."""
        attr = struct.pack("<IIII8x8x16x", 1, 0o640, 0, 0)  # FSB_ATTR_MODE
        made, _, _ = self.call(PUT, struct.pack("<I", 2 | 4 | 8) + attr + self.text(path), b"hello")
        assert STAT_FIELDS.unpack_from(made)[9] == 0o100640
        meta, _, _ = self.call(OPEN, struct.pack("<IQI", 3, 0, 0) + bytes(48) + self.text(path))
        handle, = struct.unpack_from("<Q", meta)
        def lock(flags, owner): # 3 bytes from 2 on
            return self.call(
                LOCK, struct.pack("<IQQQQI", flags, handle, 2, 3, owner, os.getpid()))[0]
        lock(2, 7)  # exclusive
        taken = struct.unpack_from("<IQQQI", lock(2 | 4, 8))  # could another owner have it?
        assert taken[:3] == (2, 2, 3) and taken[4] == os.getpid(), taken
        meta, _, _ = self.call(WRITE, struct.pack("<IQQ", 1, handle, 0), b" world")  # APPEND
        assert struct.unpack_from("<Q", meta, 104) == (5,)  # OUT_OFFSET stands behind STAT
        assert self.read(path) == b"hello world"
        self.call(RENAME, struct.pack("<I", 1) + self.text(path) + self.text(path + "2"))
        self.call(CLOSE, struct.pack("<Q", handle))
        self.call(UNLINK, self.text(path + "2"))

    def readlink(self, path):
        return self.call(READLINK, struct.pack("<QQI", 0, 0, 4096) + self.text(path))[1]


def fails(error, call, *args):
    try:
        call(*args)
    except Failed as why:
        assert str(why) == error, why
        return
    sys.exit("%s was not said" % error)


def rules(path, share):
    """What a client of another release, or a careless one, is answered."""
    Host(path, None, 1, 9, 0x80000000).stat("/")  # the first share; a flag that is not known
    fails(os.strerror(71), Host, path, share, 2, 9)
    fails(os.strerror(2), Host, path, "no such share")
    host = Host(path, share)
    host.tag = 7  # of all of these: whoever sends one tag twice gets two answers
    ask = host.frame(STAT, struct.pack("<QQ", 0, 0) + host.text("/"))
    host.socket.sendall(ask * 1000)  # more than may be in flight: the rest waits
    for _ in range(1000):
        host.answer(STAT)
    host.call(PING, b"")
    fails(os.strerror(9), host.call, CLOSE, struct.pack("<Q", 2**64 - 1))
    fails("the host hung up", host.call, 0x7fff, b"")  # no op
    host = Host(path, share)
    host.socket.sendall(b"FSB")  # half a frame, and then no more
    host.socket.shutdown(socket.SHUT_WR)
    fails("the host hung up", host.receive, 1)


def compare(host, path, folder):
    names = {}
    for name, stat in host.list(path):
        assert name not in names
        names[name] = stat
    assert sorted(names) == sorted(os.listdir(folder)), path
    files = 0
    for name, stat in names.items():
        local, remote = os.path.join(folder, name), path.rstrip("/") + "/" + name
        real = os.lstat(local)
        assert stat[2:4] == (real.st_ino, real.st_size), (remote, stat, real)
        assert stat[6] == real.st_mtime_ns and stat[9] == real.st_mode, (remote, stat, real)
        assert host.stat(remote)[0] == stat[0]
        if stat[9] >> 12 == 4:
            files += compare(host, remote, local)
        elif stat[9] >> 12 == 10:
            assert host.readlink(remote) == os.fsencode(os.readlink(local))
        elif stat[9] >> 12 == 8:
            with open(local, "rb") as f:
                assert host.read(remote) == f.read(), remote
            files += 1
    return files


if __name__ == "__main__":
    host = Host(sys.argv[1], sys.argv[2])
    fails(os.strerror(2), host.stat, "/does/not/exist")
    rules(sys.argv[1], sys.argv[2])
    if host.rights & 2:
        host.scribble("/made by foreign.py")
    print(compare(host, "/", sys.argv[3]), "files are the same")
