#!/usr/bin/env python3
"""Checks what a demo left behind, as somebody who does not trust us would: written from domain/FORMAT.md alone,
with Python's standard library and the zstd command. It shares no code with Coldstream.

    tests/outsider.py KEPT [--history FILE.ndjson[.zst] --oracle FILE.oracle.json]

KEPT is the folder that `ops/demo --keep KEPT` leaves: one folder a bucket (`home`, `dr`), `public-keys.txt`,
`journals/*.ndjson` (what each writer was acknowledged) and `result.json`. Exit code 0 only if everything holds.
"""
import argparse, base64, binascii, hashlib, json, pathlib, re, struct, subprocess, sys

BLOCK_RECORDS_MAX, BLOCK_BYTES_MAX, GROUP_LEVEL_MAX = 4096, 4 << 20, 12


class Doubt(Exception):
    """Something does not hold."""


def must(holds, what):
    if not holds:
        raise Doubt(what)


# --- Ed25519 (RFC 8032 §5.1.7), slow and plain ---------------------------------------------------------------------
P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT = pow(2, (P - 1) // 4, P)


def recover_x(y, sign):
    if y >= P:
        return None
    x2 = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    if x2 == 0:
        return None if sign else 0
    x = pow(x2, (P + 3) // 8, P)
    if (x * x - x2) % P:
        x = x * ROOT % P
    if (x * x - x2) % P:
        return None
    return P - x if (x & 1) != sign else x


def point(data):
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & ((1 << 255) - 1)
    x = recover_x(y, sign)
    return None if x is None else (x, y, 1, x * y % P)


def add(a, b):
    A, B = (a[1] - a[0]) * (b[1] - b[0]) % P, (a[1] + a[0]) * (b[1] + b[0]) % P
    C, E = 2 * a[3] * b[3] * D % P, 2 * a[2] * b[2] % P
    e, f, g, h = B - A, E - C, E + C, B + A
    return e * f % P, g * h % P, f * g % P, e * h % P


def times(n, p):
    q = (0, 1, 1, 0)
    while n:
        if n & 1:
            q = add(q, p)
        p, n = add(p, p), n >> 1
    return q


GY = 4 * pow(5, P - 2, P) % P
G = (recover_x(GY, 0), GY, 1, recover_x(GY, 0) * GY % P)


def ed25519_holds(public, message, signature):
    if len(signature) != 64:
        return False
    a, r, s = point(public), point(signature[:32]), int.from_bytes(signature[32:], "little")
    if a is None or r is None or s >= L:
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % L
    left, right = times(s, G), add(r, times(k, a))
    same = lambda i: (left[i] * right[2] - right[i] * left[2]) % P == 0
    return same(0) and same(1)


# --- §1 keys, §3 records -------------------------------------------------------------------------------------------
def read_keys(text):
    keys = {}
    for line in text.split():
        name, tag, encoded = line.split("+", 2)
        raw = base64.b64decode(encoded, validate=True)
        must(raw[:1] == b"\x01" and len(raw) == 33, f"{line}: not an Ed25519 key")
        must(hashlib.sha256(name.encode() + b"\n" + raw).hexdigest()[:8] == tag, f"{line}: wrong hash")
        keys[f"{name}+{tag}"] = raw[1:]
    return keys


def leaf_of(line, record):
    if line.startswith(b'{"position"'):
        return bytes.fromhex(record["leaf"])
    return hashlib.sha256(b"\x00" + line).digest()


class Tree:
    """RFC 6962's tree as the roots of its complete subtrees."""

    def __init__(self):
        self.size, self.peaks = 0, []

    def push(self, node):
        n = self.size
        while n & 1:
            node, n = hashlib.sha256(b"\x01" + self.peaks.pop() + node).digest(), n >> 1
        self.peaks.append(node)
        self.size += 1

    def root(self):
        if not self.peaks:
            return hashlib.sha256(b"").digest()
        node = self.peaks[-1]
        for left in reversed(self.peaks[:-1]):
            node = hashlib.sha256(b"\x01" + left + node).digest()
        return node


def root_over(leaves):
    tree = Tree()
    for leaf in leaves:
        tree.push(leaf)
    return tree.root()


class Log:
    """Records in position order, from 1 on: what §3 says of a log."""

    def __init__(self, each):
        self.tree, self.roots, self.versions, self.newest = Tree(), {}, {}, {}
        self.at, self.epoch, self.removed, self.each = "", 0, 0, each

    def take(self, line, record):
        position = int(record["position"])
        must(position == self.tree.size + 1, f"position {position} follows {self.tree.size}")
        must(record["recordedat"] >= self.at, f"position {position}: recordedat falls")
        must(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", record["recordedat"]), "an instant's spelling")
        stream, version = record["subject"], int(record["version"])
        must(version == self.versions.get(stream, 0) + 1, f"position {position}: version {version} of {stream!r}")
        if "removed" in record:
            self.removed += 1
        else:
            must(int(record["previous"]) == self.newest.get(stream, 0), f"position {position}: back link")
            must(int(record["epoch"]) >= self.epoch, f"position {position}: epoch falls")
            self.epoch = int(record["epoch"])
        self.at, self.versions[stream], self.newest[stream] = record["recordedat"], version, position
        leaf = leaf_of(line, record)
        self.tree.push(leaf)
        self.each(record)
        return leaf


# --- §4 segment, §5 index ------------------------------------------------------------------------------------------
def frames(data):
    """Cuts a segment into its zstd frames (RFC 8878 §3.1.1): (offset, length, content size)."""
    at = 0
    while at < len(data):
        must(data[at : at + 4] == b"\x28\xb5\x2f\xfd", f"no zstd frame at byte {at}")
        flags = data[at + 4]
        must(flags & 4, "a frame without a checksum")
        must(not flags & 3, "a frame with a dictionary")
        single, size_code = flags >> 5 & 1, flags >> 6
        size_bytes = [single, 2, 4, 8][size_code]
        must(size_bytes, "a frame without its content size")
        header = at + 5 + (0 if single else 1)
        size = int.from_bytes(data[header : header + size_bytes], "little") + (256 if size_code == 1 else 0)
        end = header + size_bytes
        while True:
            block = int.from_bytes(data[end : end + 3], "little")
            must(end + 3 <= len(data), "a frame ends early")
            end += 3 + (1 if block >> 1 & 3 == 1 else block >> 3)
            if block & 1:
                break
        end += 4
        must(end <= len(data), "a frame ends early")
        yield at, end - at, size
        at = end


def unzstd(data):
    done = subprocess.run(["zstd", "-dcq"], input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    must(done.returncode == 0, f"zstd: {done.stderr.decode().strip()}")
    return done.stdout


def crc(data):
    return f"{binascii.crc32(data):08x}"


def micros(at):
    days = lambda y, m, d: (lambda y2, m2: 365 * y2 + y2 // 4 - y2 // 100 + y2 // 400 + (153 * m2 + 2) // 5 + d - 719469)(
        y - (m <= 2), (m + 9) % 12)
    y, m, d, hour, minute, second, micro = (int(part) for part in re.findall(r"\d+", at))
    return (((days(y, m, d) * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000 + micro


def leb128(n):
    out = bytearray()
    while n >= 0x80:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def take_segment(segment, data, log):
    """Checks a segment against its entry and its records against the log; gives the index that it must have."""
    first, last = int(segment["first"]), int(segment["last"])
    must(len(data) == int(segment["bytes"]), "length")
    must(crc(data) == segment["crc32"], "CRC-32")
    must(hashlib.sha256(data).hexdigest() == segment["sha256"], "SHA-256")
    cut, leaves, table, streams, record_bytes, ats = list(frames(data)), [], b"", {}, 0, []
    for number, (offset, length, size) in enumerate(cut):
        frame = data[offset : offset + length]
        text = unzstd(frame)
        must(len(text) == size and text.endswith(b"\n"), "a frame's content size")
        lines = text[:-1].split(b"\n")
        a, n = first - 1 + len(leaves), len(lines)
        must(n <= BLOCK_RECORDS_MAX and size <= BLOCK_BYTES_MAX, "a block is too large")
        must(a >> GROUP_LEVEL_MAX == (a + n - 1) >> GROUP_LEVEL_MAX, "a block crosses its aligned group")
        whole = n & (n - 1) == 0 and a % n == 0
        must(whole or number in (0, len(cut) - 1), "a block inside is not complete")
        block, block_ats = [], []
        for line in lines:
            record = json.loads(line)
            block.append(log.take(line, record))
            block_ats.append(record["recordedat"])
            versions = streams.setdefault(record["subject"], [{}, 0])
            versions[0].setdefault(number, int(record["version"]))
            versions[1] = int(record["version"])
        table += struct.pack("<QII", offset, length, binascii.crc32(frame)) + struct.pack("<QII", a + 1, n, size)
        table += struct.pack("<qq", micros(block_ats[0]), micros(block_ats[-1])) + root_over(block)
        leaves += block
        ats += [block_ats[0], block_ats[-1]]
        record_bytes += size
    must(len(leaves) == last - first + 1, "number of records")
    must(record_bytes == int(segment["record_bytes"]), "record_bytes")
    must((ats[0], ats[-1]) == (segment["first_at"], segment["last_at"]), "times")
    must(root_over(leaves).hex() == segment["root"], "root")
    return make_index(first, last, segment["sha256"], table, len(cut), streams)


def make_index(first, last, sha256, table, blocks, streams):
    postings, directory = b"", b""
    by_key = {hashlib.sha256(name.encode()).digest()[:16]: held for name, held in streams.items()}
    for key in sorted(by_key):
        directory += key + struct.pack("<I", len(postings))
        held, newest = by_key[key]
        postings += leb128(newest)
        before = (0, 0)
        for number, version in sorted(held.items()):
            postings += leb128(number - before[0]) + leb128(version - before[1])
            before = (number, version)
    head = b"CSINDEX\x01" + struct.pack("<QQ", first, last) + bytes.fromhex(sha256)
    head += struct.pack("<IIQ", blocks, len(by_key), len(postings))
    return b"".join(part + struct.pack("<I", binascii.crc32(part)) for part in (head, table, directory, postings))


# --- §6 to §10 -----------------------------------------------------------------------------------------------------
def statement(data, word, keys):
    text = data.decode()
    opening = '{"%s":' % word
    must(text.startswith(opening) and text.endswith("}"), f"not a {word}")
    inner, _, rest = text[len(opening) : -1].rpartition(',"signature":')
    signature = json.loads(rest)
    must(signature["key"] in keys, f"signed by the unknown key {signature['key']}")
    signed = f"coldstream-{word}-v1\n{inner}".encode()
    proof = base64.b64decode(signature["ed25519"], validate=True)
    must(ed25519_holds(keys[signature["key"]], signed, proof), "the signature does not hold")
    value = json.loads(inner)
    must(json.dumps(value, separators=(",", ":"), ensure_ascii=False) == inner, "another spelling")
    must(value["format"] == 1, "format")
    return value, signature["key"]


def read_note(text, keys):
    """(log, size, root, epoch, names of the regions that signed)."""
    body, _, signatures = text.partition("\n\n")
    lines = body.split("\n")
    must(len(lines) == 4 and lines[0].startswith("coldstream/") and lines[3].startswith("epoch "), "a note's form")
    signers = set()
    for line in signatures.splitlines():
        dash, name, encoded = line.split(" ")
        raw = base64.b64decode(encoded, validate=True)
        key = keys.get(f"{name}+{raw[:4].hex()}")
        if dash == "\u2014" and key is not None:
            must(ed25519_holds(key, (body + "\n").encode(), raw[4:]), f"the signature of {name} does not hold")
            signers.add(name)
    return lines[0][11:], int(lines[1]), base64.b64decode(lines[2]), int(lines[3][6:]), signers


def segment_key(segment, folder, ending):
    first, last = int(segment["first"]), int(segment["last"])
    return f"{folder}/{first:020}-{last:020}-{segment['epoch']}-{segment['sha256'][:16]}{ending}"


class Bucket:
    def __init__(self, folder, keys):
        self.folder, self.keys = pathlib.Path(folder), keys

    def list(self, prefix):
        start = self.folder / prefix
        return sorted(str(path.relative_to(self.folder)) for path in start.rglob("*") if path.is_file())

    def get(self, key):
        path = self.folder / key
        must(path.is_file(), f"{key} is missing")
        return path.read_bytes()

    def claims(self):
        """§9: epoch → fork."""
        claims = {}
        for key in self.list("epoch"):
            value, _ = statement(self.get(key), "epoch", self.keys)
            claims[int(value["epoch"])] = int(value["fork"])
        return claims

    def manifests_that_count(self):
        """§7: from number 1 to the newest; and the void ones' keys."""
        by_epoch = {}
        for key in self.list("manifest"):
            data = self.get(key)
            value, _ = statement(data, "manifest", self.keys)
            must(key == f"manifest/{int(value['epoch']):020}/{int(value['number']):020}.json", f"{key}: misplaced")
            by_epoch.setdefault(int(value["epoch"]), []).append((int(value["number"]), hashlib.sha256(data).hexdigest(), value))
        claims = self.claims()
        counting, epoch, until = [], max(by_epoch, default=0), None
        limit = min([fork for claimed, fork in claims.items() if claimed > epoch], default=None)
        total = sum(len(steps) for steps in by_epoch.values())
        while epoch:
            steps = [step for step in sorted(by_epoch.pop(epoch)) if until is None or step[0] <= until]
            if limit is not None:
                for index, step in enumerate(steps):
                    if any(int(s["last"]) > limit for s in step[2]["added"]):
                        steps = steps[:index]
                        break
            counting = steps + counting
            after = steps[0][2]["fork"] and steps[0][2]["fork"]["after"] if steps else None
            epoch, until, limit = (int(after["epoch"]), int(after["number"]), None) if after else (0, None, None)
        return counting, total - len(counting)

    def segments_in_force(self):
        counting, void = self.manifests_that_count()
        in_force, previous, epoch = [], None, 0
        for expected, (number, digest, value) in enumerate(counting, 1):
            must(number == expected, f"manifest {number} where {expected} should be")
            must(value["previous"] == previous, f"manifest {number} does not name the one before it")
            opens = int(value["epoch"]) != epoch and (int(value["epoch"]), number) != (1, 1)
            must(bool(value["fork"]) == opens, f"manifest {number}: fork")
            for gone in value["replaced"]:
                kept = [s for s in in_force if any(s[m] != gone[m] for m in gone)]
                must(len(kept) == len(in_force) - 1, f"manifest {number} replaces what is not in force")
                in_force = kept
            in_force = sorted(in_force + value["added"], key=lambda s: int(s["first"]))
            position = 0
            for segment in in_force:
                must(int(segment["first"]) == position + 1, f"manifest {number}: a hole before {segment['first']}")
                position = int(segment["last"])
            must(value["in_force"] in (None, in_force), f"manifest {number}: in_force")
            previous, epoch = digest, int(value["epoch"])
        return in_force, len(counting), void

    def verify(self, each):
        """§11. Returns what was found; raises at the first doubt."""
        in_force, manifests, void = self.segments_in_force()
        notes = [read_note(self.get(key).decode(), self.keys) for key in self.list("checkpoint")]
        claims = self.claims()
        # §11.4: what an older epoch said of positions beyond a later one's fork is of the branch that lost.
        is_void = lambda note: any(epoch > note[3] and fork < note[1] for epoch, fork in claims.items())
        void_notes = [note for note in notes if is_void(note)]
        notes = [note for note in notes if not is_void(note)]
        wanted = {size for _, size, _, _, _ in notes}
        log = Log(each)
        plain_take = log.take

        def take(line, record):
            leaf = plain_take(line, record)
            if log.tree.size in wanted:
                log.roots[log.tree.size] = log.tree.root()
            return leaf

        log.take = take
        confirmed = 0
        for segment in in_force:
            try:
                index = take_segment(segment, self.get(segment_key(segment, "seg", ".ndjson.zst")), log)
                stored = self.get(segment_key(segment, "idx", ".idx"))
                must(stored == index, "the index is not that of the segment")
                must(hashlib.sha256(stored).hexdigest() == segment["index_sha256"], "SHA-256 of the index")
                must((len(stored), crc(stored)) == (int(segment["index_bytes"]), segment["index_crc32"]), "index length")
            except Doubt as doubt:
                raise Doubt(f"segment {segment['first']}-{segment['last']}: {doubt}") from None
        for key in self.list("confirm"):
            value, signer = statement(self.get(key), "confirmation", self.keys)
            must(signer.split("+")[0] == value["region"], f"{key}: signed by another region")
            confirmed += value["segment"] in in_force
        reached = 0
        for name, size, root, epoch, signers in notes:
            if size in log.roots:
                must(log.roots[size] == root, f"the checkpoint at {size} has another root")
                reached = max(reached, size if len(signers) > 1 else 0)
        return {"records": log.tree.size, "root": log.tree.root().hex(), "segments": len(in_force), "manifests": manifests,
                "void_manifests": void, "checkpoints": len(notes),
                "void_checkpoints": len(void_notes), "proven_to": reached, "removed": log.removed,
                "confirmations": confirmed}


# --- the history and its oracle ------------------------------------------------------------------------------------
class Living:
    """Which items live after how many events of the history, from the records alone."""

    def __init__(self, history, oracle):
        data = pathlib.Path(history).read_bytes()
        lines = (unzstd(data) if str(history).endswith(".zst") else data).split(b"\n")
        events = [json.loads(line) for line in lines if line.strip()]
        self.ids = [(event["source"], event["id"]) for event in events]
        self.points = {p["after_events"]: p for p in json.loads(pathlib.Path(oracle).read_text())["checkpoints"]}
        self.items, self.seen, self.checked = {}, 0, 0

    def take(self, record):
        if self.seen == len(self.ids) or (record.get("source"), record.get("id")) != self.ids[self.seen]:
            return
        self.seen += 1
        path = record["subject"].split("-", 1)[1]
        if record["type"] == "content.deleted":
            self.items.pop(path, None)
        else:
            self.items[path] = record["data"]["oid"]
        expected = self.points.get(self.seen)
        if expected:
            text = b"".join(p.encode() + b"\0" + self.items[p].encode() + b"\n" for p in sorted(self.items))
            must(len(self.items) == expected["live"], f"{len(self.items)} items live after {self.seen} events")
            must(hashlib.sha256(text).hexdigest() == expected["digest"], f"another digest after {self.seen} events")
            self.checked += 1

    def finish(self):
        must(self.seen == len(self.ids), f"{len(self.ids) - self.seen} events of the history are missing")
        must(self.checked == len(self.points), f"only {self.checked} of {len(self.points)} oracle points were reached")


def read_journals(folder):
    """What each writer was acknowledged: (source, id) → (position, version, epoch)."""
    acknowledged = {}
    for journal in sorted(folder.glob("*.ndjson")):
        for line in journal.read_text().splitlines():
            entry = json.loads(line)
            key = (entry["source"], entry["id"])
            must(key not in acknowledged, f"{key} was acknowledged twice")
            acknowledged[key] = tuple(int(entry[member]) for member in ("position", "version", "epoch"))
    return acknowledged


def check_failover(failover, acknowledged, surviving):
    """REP-3: what was acknowledged is there as it was said, or is above the fork and within the stated bound."""
    head, fork, bound = int(failover["own_head"]), int(failover["fork"]), failover["bound_events"]
    must(fork == head, f"the new epoch begins after {fork}, the stated head is {head}")
    lost = 0
    for (source, id_), said in acknowledged.items():
        found = surviving.get((source, id_))
        if found is None:
            lost += 1
            must(said[0] > head, f"{id_} was acknowledged at {said[0]}, which is not above the stated head {head}, and is lost")
        else:
            must(found == said, f"{id_} was acknowledged at (position, version, epoch) {said} and stands at {found}")
            must(said[0] <= head, f"{id_} is there at {said[0]}, above the stated head {head}")
    must(bound is None or lost <= bound, f"{lost} acknowledged events are lost, the stated bound is {bound}")
    return {"acknowledged": len(acknowledged), "lost": lost, "bound": bound, "own_head": head, "fork": fork}


def check(args):
    keys = read_keys((args.kept / "public-keys.txt").read_text())
    failover = json.loads((args.kept / "result.json").read_text())["failover"]
    report = {}
    for name in ("home", "dr"):
        living = Living(args.history, args.oracle) if args.oracle else None
        surviving, doubles = {}, []

        def each(record):
            if "removed" in record:
                return
            key = (record["source"], record["id"])
            if key in surviving:
                doubles.append(key)
            surviving[key] = tuple(int(record[member]) for member in ("position", "version", "epoch"))
            if living:
                living.take(record)

        try:
            report[name] = Bucket(args.kept / name, keys).verify(each)
            must(not doubles, f"stored twice: {doubles[:3]}")
            if living:
                living.finish()
                report[name]["oracle_points"] = living.checked
        except Doubt as doubt:
            raise Doubt(f"{name}: {doubt}") from None
    # The DR bucket is the one that went on after the failover.
    report["failover"] = check_failover(failover, read_journals(args.kept / "journals"), surviving)
    return report


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("kept", type=pathlib.Path)
    parser.add_argument("--history")
    parser.add_argument("--oracle")
    try:
        print(json.dumps(check(parser.parse_args()), indent=1))
    except Doubt as doubt:
        print(f"outsider: {doubt}", file=sys.stderr)
        return 1
    except (OSError, ValueError, KeyError, TypeError, IndexError, struct.error) as error:
        # What cannot even be read is no reason to believe it.
        print(f"outsider: cannot be read: {error!r}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
