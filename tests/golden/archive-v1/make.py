#!/usr/bin/env python3
"""Writes the golden bucket of the archive's format 1, from domain/FORMAT.md alone.

Python's standard library and the `zstd` command; nothing of Coldstream's own code. The objects that it
wrote are pinned beside it: objects are added, never edited, so it is not run again for format 1.

The history: 2,100 events of 301 streams. Region `home` holds epoch 1 and seals positions 1 to 1030. The link
breaks; `dr`, which has 1,500 events, is promoted to epoch 2, seals 1031 to 2100; a manifest that `home` still
wrote for 1031 to 1510 is void.
"""
import base64, hashlib, json, pathlib, struct, subprocess, sys, zlib

LOG = "golden"
HERE = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else __file__).resolve()
BUCKET = (HERE if HERE.is_dir() else HERE.parent) / "bucket"

# -- Ed25519, RFC 8032 §5.1, by its definition ---------------------------------------------------------
Q = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, Q - 2, Q) % Q
ROOT = pow(2, (Q - 1) // 4, Q)


def recover_x(y):
    xx = (y * y - 1) * pow(D * y * y + 1, Q - 2, Q)
    x = pow(xx, (Q + 3) // 8, Q)
    if (x * x - xx) % Q:
        x = x * ROOT % Q
    return Q - x if x % 2 else x


BASE_Y = 4 * pow(5, Q - 2, Q) % Q
BASE = (recover_x(BASE_Y), BASE_Y)


def add(a, b):
    (x1, y1), (x2, y2) = a, b
    t = D * x1 * x2 * y1 * y2
    return ((x1 * y2 + x2 * y1) * pow(1 + t, Q - 2, Q) % Q, (y1 * y2 + x1 * x2) * pow(1 - t, Q - 2, Q) % Q)


def times(point, n):
    result = (0, 1)
    while n:
        if n & 1:
            result = add(result, point)
        point, n = add(point, point), n >> 1
    return result


def pack(point):
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


class Key:
    def __init__(self, name, seed):
        self.name, self.seed = name, seed
        h = hashlib.sha512(seed).digest()
        self.scalar = int.from_bytes(h[:32], "little") & ~7 & ~(1 << 255) | 1 << 254
        self.prefix = h[32:]
        self.public = pack(times(BASE, self.scalar))
        self.hash = hashlib.sha256(name.encode() + b"\n\x01" + self.public).digest()[:4]
        self.id = f"{name}+{self.hash.hex()}"

    def sign(self, message):
        number = lambda *parts: int.from_bytes(hashlib.sha512(b"".join(parts)).digest(), "little") % ORDER
        r = number(self.prefix, message)
        point = pack(times(BASE, r))
        s = (r + number(point, self.public, message) * self.scalar) % ORDER
        return point + s.to_bytes(32, "little")

    def vkey(self):
        return f"{self.id}+{b64(bytes([1]) + self.public)}\n"

    def skey(self):
        return f"PRIVATE+KEY+{self.id}+{b64(bytes([1]) + self.seed)}\n"


# -- small words ----------------------------------------------------------------------------------------
def b64(data):
    return base64.b64encode(data).decode()


def sha256(data):
    return hashlib.sha256(data).digest()


def crc(data):
    return zlib.crc32(data)


def compact(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def instant(micros):
    seconds, micros = divmod(micros, 1_000_000)
    import datetime

    day = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return day.strftime("%Y-%m-%dT%H:%M:%S") + f".{micros:06d}Z"


def root_over(leaves):
    """RFC 6962 §2.1, by its definition."""
    if len(leaves) == 1:
        return leaves[0]
    half = 1 << (len(leaves) - 1).bit_length() - 1
    return sha256(b"\x01" + root_over(leaves[:half]) + root_over(leaves[half:]))


def store(key, data):
    path = BUCKET / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


# -- records (§3) ----------------------------------------------------------------------------------------
START = 1_777_622_400_000_000  # 2026-05-01T08:00:00Z


class Record:
    pass


def history():
    newest, records = {}, []
    for position in range(1, 2101):
        stream = f"content-item/{position * position % 599 % 301}"
        version, previous = newest.get(stream, (0, 0))
        version += 1
        at = START + position * 37_000_001
        event = {
            "specversion": "1.0",
            "id": f"e-{position}",
            "source": "/golden",
            "type": "content.created" if version == 1 else "content.revised",
            "subject": stream,
            "time": instant(at - 1)[:-8] + "+00:00",
            "recordedat": instant(at),
            "position": str(position),
            "version": str(version),
            "previous": str(previous),
            "epoch": "1" if position <= 1500 else "2",
            "datacontenttype": "application/json",
            "data": {"oid": sha256(str(position).encode()).hex()[:40], "size": position * 7919 % 65_536},
        }
        line = compact(event).encode()
        leaf = sha256(b"\x00" + line)
        if position == 7:
            removed = {name: event[name] for name in ("position", "version", "subject", "recordedat")}
            removed |= {"removed": "retention", "certificate": "certificate/golden", "leaf": leaf.hex()}
            line = compact(removed).encode()
        record = Record()
        record.line, record.leaf, record.at = line, leaf, at
        record.position, record.stream, record.version = position, stream, version
        records.append(record)
        newest[stream] = (version, position)
    return records


# -- segment (§4) and index (§5) -------------------------------------------------------------------------
def frame(text):
    command = ["zstd", "-q", "-9", "--check", f"--stream-size={len(text)}", "-c"]
    return subprocess.run(command, input=text, stdout=subprocess.PIPE, check=True).stdout


def varint(number):
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def seal(records, epoch):
    blocks, group = [], None
    for record in records:  # all blocks are far below 4 MiB here, so each group of 2^10 leaves is one
        if (record.position - 1) >> 10 != group:
            group = (record.position - 1) >> 10
            blocks.append([])
        blocks[-1].append(record)

    data, table, streams = b"", b"", {}
    for number, block in enumerate(blocks):
        text = b"".join(record.line + b"\n" for record in block)
        stored = frame(text)
        table += struct.pack("<QIIQII", len(data), len(stored), crc(stored), block[0].position, len(block), len(text))
        table += struct.pack("<qq", block[0].at, block[-1].at) + root_over([record.leaf for record in block])
        data += stored
        for record in block:
            streams.setdefault(record.stream, []).append((number, record.version))

    directory, postings = b"", b""
    for name in sorted(streams, key=lambda name: sha256(name.encode())):
        directory += sha256(name.encode())[:16] + struct.pack("<I", len(postings))
        postings += varint(streams[name][-1][1])
        before = (0, 0)
        for number in sorted({number for number, _ in streams[name]}):
            first = min(version for block, version in streams[name] if block == number)
            postings += varint(number - before[0]) + varint(first - before[1])
            before = (number, first)

    first, last = records[0], records[-1]
    header = b"CSINDEX\x01" + struct.pack("<QQ", first.position, last.position) + sha256(data)
    header += struct.pack("<IIQ", len(blocks), len(streams), len(postings))
    index = b"".join(section + struct.pack("<I", crc(section)) for section in (header, table, directory, postings))

    segment = {
        "first": str(first.position),
        "last": str(last.position),
        "epoch": str(epoch),
        "sha256": sha256(data).hex(),
        "crc32": f"{crc(data):08x}",
        "bytes": str(len(data)),
        "record_bytes": str(sum(len(record.line) + 1 for record in records)),
        "index_sha256": sha256(index).hex(),
        "index_crc32": f"{crc(index):08x}",
        "index_bytes": str(len(index)),
        "root": root_over([record.leaf for record in records]).hex(),
        "first_at": instant(first.at),
        "last_at": instant(last.at),
    }
    stem = f"{first.position:020}-{last.position:020}-{epoch}-{segment['sha256'][:16]}"
    return segment, (f"seg/{stem}.ndjson.zst", data), (f"idx/{stem}.idx", index)


# -- signed statements (§6) and checkpoints (§10) ---------------------------------------------------------
def statement(word, inner, key):
    inner = compact(inner)
    signature = key.sign(f"coldstream-{word}-v1\n{inner}".encode())
    tail = compact({"key": key.id, "ed25519": b64(signature)})
    return f'{{"{word}":{inner},"signature":{tail}}}'.encode()


def checkpoint(size, root, epoch, keys):
    text = f"coldstream/{LOG}\n{size}\n{b64(root)}\nepoch {epoch}\n"
    lines = (f"— {key.name} {b64(key.hash + key.sign(text.encode()))}\n" for key in keys)
    return (text + "\n" + "".join(lines)).encode()


def main():
    home, dr = Key("home", bytes(range(32))), Key("dr", bytes(range(32, 64)))
    for key in (home, dr):
        (BUCKET.parent / f"{key.name}.vkey").write_text(key.vkey())
        (BUCKET.parent / f"{key.name}.skey").write_text(key.skey())
    records = history()

    def manifest(epoch, number, previous, minute, fork, added, key):
        inner = {"format": 1, "log": LOG, "epoch": str(epoch), "number": str(number), "previous": previous}
        inner |= {"time": f"2026-05-03T00:{minute:02d}:00.000000Z", "fork": fork}
        data = statement("manifest", inner | {"added": added, "replaced": [], "in_force": None}, key)
        store(f"manifest/{epoch:020}/{number:020}.json", data)
        return sha256(data).hex()

    one, *objects = seal(records[:1030], 1)
    lost, *_ = seal(records[1030:1510], 1)
    two, *more = seal(records[1030:], 2)
    for key, data in objects + more:
        store(key, data)
    first = manifest(1, 1, None, 1, None, [one], home)
    manifest(1, 2, first, 2, None, [lost], home)
    after = {"epoch": "1", "number": "1", "sha256": first}
    manifest(2, 2, first, 3, {"after": after, "position": "1500"}, [two], dr)

    for region, segment, key in (("dr", one, dr), ("home", two, home)):
        inner = {"format": 1, "log": LOG, "region": region, "segment": segment}
        inner |= {"verified_at": "2026-05-03T00:04:00.000000Z"}
        name = f"confirm/{region}/{int(segment['first']):020}-{int(segment['last']):020}-{segment['sha256'][:16]}.json"
        store(name, statement("confirmation", inner, key))

    for epoch, previous, region, fork, key in ((1, None, "home", 0, home), (2, "1", "dr", 1500, dr)):
        inner = {"format": 1, "log": LOG, "epoch": str(epoch), "previous": previous, "region": region}
        inner |= {"fork": str(fork), "time": "2026-05-02T00:00:00.000000Z"}
        store(f"epoch/{epoch:020}.json", statement("epoch", inner, key))

    leaves = [record.leaf for record in records]
    store(f"checkpoint/{1:020}/{1030:020}.note", checkpoint(1030, root_over(leaves[:1030]), 1, [home, dr]))
    store(f"checkpoint/{2:020}/{2100:020}.note", checkpoint(2100, root_over(leaves), 2, [dr]))


main()
