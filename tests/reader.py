#!/usr/bin/env python3
"""A second reader of amberfs repositories, written from docs/format.md alone.

It shares no code with amberfs, so that document and program cannot drift. It
checks all that the document promises and is in no hurry. It does not look at
conflict copies of sync clients. What several devices wrote apart it joins by
docs/merging.md (reader_join.py).

    reader.py REPO --key-file F list            type mode size blake3 path
    reader.py REPO --key-file F list --json     all of it, one object a line
    reader.py REPO --key-file F extract DEST    writes the tree to DEST
"""
import argparse
import functools
import json
import os
import re
import stat
import sys
from collections import namedtuple
from pathlib import Path

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

import reader_join

MAGIC, VERSION, NO_ID = b"amberfs\0", 1, bytes(16)
HEADER, HEAD, DATA, METADATA, INDEX_RUN = range(1, 6)
PLACE, DIRECTORY, FRAME = 1, 2, 3
RAW, ZSTD, PADDING = 0, 1, 255
NODES = 4
FRAME_MAX, CONTAINER_MAX, EXTENSION_MAX = 1 << 20, 512 << 20, 256 << 10
ITEMS_MIN, ITEMS_MAX, VALUES_MAX, LEVEL_MAX = 8, 192, 256, 15
LEAF_BYTES, ITEM_BYTES_MAX, NODE_MAX = 256 << 10, 512 << 10, 790_528
KEY_MAX, VALUE_MAX, SYMLINK_MAX, INLINE_MAX = 272, 8448, 4095, 256
XATTR_INLINE_MAX, XATTR_MAX, VERSIONS_MAX, OVER_MAX = 4096, 65_536, 255, 8
SIZE_MAX, LIST_MAX = (1 << 63) - 1, 1 << 22

Commit = namedtuple("Commit", "device generation time previous root level ledger processed news objects")
Inode = namedtuple("Inode", "mode owner device mtime ctime btime atime flags project size content inline holes "
                            "versions attribute_versions over main unknown")


class Bad(Exception):
    """The repository is not what docs/format.md says."""


def need(condition, what):
    if not condition:
        raise Bad(what)


class Input:
    """Section 2: primitives."""

    def __init__(self, data, what):
        self.data, self.at, self.what = data, 0, what

    def raw(self, count):
        need(count <= self.left(), f"{self.what} ends too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def left(self):
        return len(self.data) - self.at

    def number(self, size):
        return int.from_bytes(self.raw(size), "little")

    def var(self, limit=(1 << 64) - 1):
        value = shift = 0
        while True:
            byte = self.number(1)
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
        need(byte > 0 or shift == 0, f"{self.what}: a number is not in its shortest form")
        need(value <= limit, f"{self.what}: a number is above its limit")
        return value

    def signed(self):
        value = self.var()
        return value >> 1 ^ -(value & 1)

    def bytes(self, limit):
        return self.raw(self.var(limit))

    def end(self):
        need(self.left() == 0, f"{self.what} has bytes left over")


def derive(purpose, key, *material):
    return blake3(key + b"".join(material), derive_key_context="amberfs v1 2026-11 " + purpose).digest()


def keyed(key, data):
    return blake3(data, key=key).digest()


class FileSeal:
    """Section 4: a file sealed in segments."""

    def __init__(self, key, aad, path):
        self.cipher, self.aad, self.path = AESGCMSIV(key), aad, path

    def open(self, domain, frame, sealed, phase=0):
        out, at, i = [], 0, 0
        while at < len(sealed) or i == 0:
            end = (i + 1) * 4112 - phase
            last, piece = end >= len(sealed), sealed[at:end]
            nonce = bytes([domain, last, 0, 0]) + frame.to_bytes(4, "little") + i.to_bytes(4, "little")
            need(len(piece) > 16 or (len(piece) == len(sealed) == 16), f"{self.path}: impossible length")
            at, i = end, i + 1
            try:
                out.append(self.cipher.decrypt(nonce, piece, self.aad))
            except InvalidTag:
                what = {PLACE: "its prefix", DIRECTORY: "its directory", FRAME: f"frame {frame}"}[domain]
                raise Bad(f"{self.path}: {what} does not authenticate") from None
        return b"".join(out)


def sealed_len(plain, phase):
    return plain + 16 * max(1, -(-(plain + phase) // 4096))


def read_slots(data):
    """Stamp and unlock slots."""
    stamp = (data.number(8), data.raw(16))
    return stamp, [(data.var(), data.bytes(4096)) for _ in range(data.var(32))]


def open_register(encoded, key, repo):
    """Section 5: the sealed stamp and the keyring, or None if K does not open it."""
    data = Input(encoded, "a register")
    read_slots(data)
    salt, sealed = data.raw(32), data.bytes(128 << 10)
    data.end()
    try:
        cipher = AESGCMSIV(derive("keyring seal", key, repo, salt))
        plain = Input(cipher.decrypt(bytes(12), sealed, repo + b"\1\0"), "the keyring")
    except InvalidTag:
        return None
    inner = Input(plain.bytes(128 << 10), "the keyring")
    need(len(plain.data) % 1024 == 0 and not any(plain.raw(plain.left())), "the keyring's padding is not zeros")
    id_key, _chunker_key = inner.raw(32), inner.raw(32)
    epochs = [(inner.raw(16), inner.raw(32)) for _ in range(inner.var(1024))]
    need(epochs, "the keyring has no epoch")
    stamp, _slots = read_slots(inner)
    read_features(inner)
    return stamp, id_key, epochs


def read_start(data):
    need(data.raw(8) == MAGIC, f"{data.what} does not begin with the magic")
    version = data.number(2)
    need(version == VERSION, f"{data.what} has format version {version}, this reader knows {VERSION}")
    kind, cipher, compression = data.number(1), data.number(1), data.number(1)
    need((cipher, compression, data.raw(3)) == (1, 1, bytes(3)), f"{data.what} has an unknown cipher or compression")
    return kind


def read_features(data):
    _compatible, _read_only, incompatible = (data.number(4) for _ in range(3))
    need(incompatible == 0, f"{data.what} needs features {incompatible:#x} that this reader lacks")


def read_extension(raw, path, authentic=False):
    """Section 6: what is in the clear forbids nothing; once the head is opened, it counts."""
    data = Input(raw, path)
    if authentic:
        read_features(data)
    else:
        data.raw(12)
    found = data.raw(16), data.raw(16), data.number(8), data.bytes(EXTENSION_MAX)
    data.end()
    return found


class Container:
    """Sections 3 and 6: prefix, frames, directory."""

    def __init__(self, repository, path, name_hash, kinds):
        self.path, data = path, (repository.folder / path).read_bytes()
        need(blake3(data).digest() == name_hash, f"{path}: its bytes do not have the hash in its name")
        start = Input(data, path)
        self.kind = read_start(start)
        need(self.kind in kinds, f"{path} is of another kind")
        self.epoch, salt, place = start.raw(16), start.raw(32), start.raw(32)
        self.extension = start.raw(self._limit(start.number(4), path))
        key = repository.epochs.get(self.epoch)
        need(key, f"{path} is sealed under an epoch that the keyring lacks")
        aad = repository.id + blake3(data[:64] + data[96 : start.at]).digest()
        self.seal = FileSeal(derive("file seal", key, repository.id, self.epoch, salt), aad, path)
        place = Input(self.seal.open(PLACE, 0, place), path)
        offset, size = place.number(8), place.number(8)
        need(offset + size == len(data) <= CONTAINER_MAX, f"{path}: its size is not what it was written with")
        self.file, self.start, self.size = repository.folder / path, start.at, len(data)
        self._read_directory(Input(self.seal.open(DIRECTORY, 0, data[offset:]), path), offset)

    @staticmethod
    def _limit(size, path):
        need(size <= EXTENSION_MAX, f"{path}: its extension is above its limit")
        return size

    def _read_directory(self, data, end):
        self.frames, at = [], self.start
        for _ in range(data.var(1 << 18)):
            codec, cls = data.number(1), data.number(1)
            need(codec in (RAW, ZSTD, PADDING) and 1 <= cls <= 4, f"{self.path}: unknown codec or class")
            limit = CONTAINER_MAX if codec == PADDING else FRAME_MAX
            stored, plain = data.var(limit), data.var(limit)
            need(codec == ZSTD or stored == plain, f"{self.path}: a frame's lengths differ")
            phase = data.var(4095) if codec == RAW else 0
            self.frames.append((codec, at, stored, plain, cls, phase))
            at += sealed_len(stored, phase)
        need(at == end, f"{self.path}: its frames do not fill it")
        self.chunks, last = {}, b""
        for _ in range(data.var(1 << 21)):
            chunk, frame, offset, size = data.raw(16), data.var(1 << 18), data.var(FRAME_MAX), data.var(FRAME_MAX)
            fits = frame < len(self.frames) and self.frames[frame][0] != PADDING
            need(fits and offset + size <= self.frames[frame][3], f"{self.path}: a chunk lies outside its frame")
            need(chunk > last, f"{self.path}: chunks are not in order")
            self.chunks[chunk], last = (frame, offset, size), chunk
        self.extra = data.raw(data.left())

    @functools.lru_cache(maxsize=8)
    def frame(self, number):
        codec, at, stored, plain, _class, phase = self.frames[number]
        with open(self.file, "rb") as file:
            sealed = os.pread(file.fileno(), sealed_len(stored, phase), at)
        data = self.seal.open(FRAME, number, sealed, phase)
        need(len(data) == stored, f"{self.path}: frame {number} has another length")
        if codec == ZSTD:
            try:
                data = zstandard.ZstdDecompressor().decompress(data, max_output_size=plain)
            except zstandard.ZstdError:
                raise Bad(f"{self.path}: frame {number} does not unpack") from None
            need(len(data) == plain, f"{self.path}: frame {number} unpacks to another length")
        return data

    def chunk(self, chunk):
        frame, offset, size = self.chunks[chunk]
        return self.frame(frame)[offset : offset + size]

    def check(self, repository):
        """All frames open, padding is zeros, all chunks have their ids."""
        for number, (codec, *_) in enumerate(self.frames):
            need(codec != PADDING or not any(self.frame(number)), f"{self.path}: its padding is not zeros")
        for chunk in sorted(self.chunks, key=self.chunks.get):
            key = repository.node_key if self.frames[self.chunks[chunk][0]][4] == NODES else repository.chunk_key
            need(keyed(key, self.chunk(chunk))[:16] == chunk, f"{self.path}: {chunk.hex()} is not the id of its bytes")


def read_writer(data):
    writer = int.from_bytes(data.raw(5), "big")
    need(0 < writer < 1 << 39, f"{data.what}: a writer is out of range")
    return writer


def read_processed(data):
    heads = {}
    for _ in range(data.var(65536)):
        device, generation, tag = data.raw(16), data.var(), data.raw(8)
        need(not heads or device > max(heads), f"{data.what}: processed heads are not in order")
        need(generation, f"{data.what}: a processed head has no generation")
        heads[device] = generation, tag
    return heads


def read_set(data, size):
    items = [data.raw(size) for _ in range(data.left() // size)]
    need(items and not data.left() and items == sorted(set(items)), f"{data.what} is not a set")
    return items


def read_fields(data, limit):
    """Tagged fields, strictly ascending."""
    last = 0
    while data.left():
        tag = data.var()
        need(tag > last, f"{data.what}: fields are not in order")
        last = tag
        yield tag, Input(data.bytes(limit), f"{data.what}, field {tag}")


def read_time(data):
    return data.signed(), data.var(999_999_999)


class Object(namedtuple("Object", "hash kind size chunks")):
    """An object as a commit lists it."""

    def check(self, container):
        fine = (self.kind, self.size, self.chunks) == (container.kind, container.size, list(container.chunks))
        need(fine, f"{container.path} is not as a commit lists it")


def read_commit(raw, path):
    """Section 7."""
    data = Input(raw, f"{path}: the commit")
    device, generation = data.raw(16), data.number(8)
    time, _writer, previous = read_time(data), read_writer(data), data.raw(32)
    root, level = data.raw(16), data.number(1)
    ledger = data.raw(16), data.number(1)
    need(max(level, ledger[1]) <= LEVEL_MAX, f"{path}: the root's level is above its limit")
    processed, flags, news = read_processed(data), data.number(1), data.var()
    need(device not in processed and flags < 4 and news <= generation, f"{path}: the commit contradicts itself")
    _journal, _inodes, _bytes, _name = data.number(8), data.var(), data.var(), data.bytes(255)
    objects = []
    for _ in range(data.var(LIST_MAX)):
        name, kind, size = data.raw(32), data.number(1), data.var()
        need(kind in (DATA, METADATA, INDEX_RUN), f"{path}: an object of unknown kind")
        objects.append(Object(name, kind, size, [data.raw(16) for _ in range(data.var(LIST_MAX))]))
    for _ in range(data.var(65536)):
        data.raw(16), data.var(), data.raw(8), data.raw(16)
    for tag, field in read_fields(data, 1 << 20):
        if tag in (2, 4):
            read_set(field, {2: 32, 4: 16}[tag])
    return Commit(device, generation, time, previous, root, level, ledger, processed, news, objects)


class Repository:
    def __init__(self, folder, key):
        self.folder, self.damage, self.opened, self.listed = Path(folder), [], {}, {}
        heads, self.objects = [], {}
        for device, _ in self._list("", r"[0-9a-f]{32}"):
            for path, match in self._list(f"{device}/head", r"([0-9a-f]{16})-([0-9a-f]{64})\.amb"):
                heads.append((device, int(match[1], 16), bytes.fromhex(match[2]), path))
            for digit in "0123456789abcdef":
                for path, match in self._list(f"{device}/obj/{digit}", rf"({digit}[0-9a-f]{{63}})\.amb"):
                    self.objects.setdefault(bytes.fromhex(match[1]), path)
        found = [f for head in heads for f in self._try(self._extension, head[3])]
        for path, match in self._list("", r"amberfs-([0-9a-f]{32})\.amb"):
            found += self._try(self._header, path, bytes.fromhex(match[1]))
        ids = {repo for repo, _ in found}
        need(len(ids) == 1, "; ".join([f"{len(ids)} repositories in {folder}", *self.damage]))
        self.id = ids.pop()
        if not os.path.exists(self.folder / f"amberfs-{self.id.hex()}.amb"):
            self.damage.append("the header is missing")
        self._unlock(key, [register for _, register in found])
        self._open_heads(heads)

    def _list(self, path, pattern):
        try:
            names = sorted(os.listdir(self.folder / path))
        except (FileNotFoundError, NotADirectoryError):
            return []
        found = ((name, re.fullmatch(pattern, name)) for name in names)
        return [(f"{path}/{name}" if path else name, match) for name, match in found if match]

    def _try(self, read, *what):
        """A register is a candidate until one opens; one that cannot be read is only noted."""
        try:
            return [read(*what)]
        except Bad as error:
            self.damage.append(str(error))
            return []

    def _header(self, path, repo):
        raw = (self.folder / path).read_bytes()
        data = Input(raw[:-32], path)
        need(read_start(data) == HEADER, f"{path} is not a header")
        need(blake3(raw[:-32]).digest() == raw[-32:], f"{path} is damaged: its checksum does not match")
        data.raw(12)
        need(data.raw(16) == repo, f"{path} belongs to another repository")
        register = data.bytes(EXTENSION_MAX)
        data.end()
        return repo, register

    def _extension(self, path):
        with open(self.folder / path, "rb") as file:
            size = int.from_bytes(file.read(100)[96:], "little")
            repo, _device, _generation, register = read_extension(file.read(size), path)
        return repo, register

    def _unlock(self, key, registers):
        check = (1, derive("key check value", key, self.id)[:16])
        named = any(check in read_slots(Input(register, "a register"))[1] for register in registers)
        opened = [found for found in (open_register(r, key, self.id) for r in registers) if found]
        need(opened, "damaged: a register names this key and none opens" if named else "wrong key")
        _stamp, id_key, epochs = max(opened)
        self.epochs, self.newest = dict(epochs), epochs[-1][0]
        self.chunk_key, self.node_key, self.name_key, self.boundary_key, self.loser_key = (
            derive(purpose, id_key, self.id)
            for purpose in ("chunk id", "node id", "name hash", "node boundary", "loser number"))

    def _open_heads(self, heads):
        self.where, newest, names, self.commits = {}, {}, {}, {}
        for device, generation, name_hash, _path in heads:
            names.setdefault((device, generation), set()).add(name_hash)
        for device, generation, name_hash, path in sorted(heads, reverse=True):
            try:
                head = Container(self, path, name_hash, (HEAD,))
                repo, named, number, _ = read_extension(head.extension, path, authentic=True)
                commit = read_commit(head.extra, path)
                agree = repo == self.id and (named.hex(), number) == (device, generation)
                need(agree and (commit.device, commit.generation) == (named, number), f"{path} belongs elsewhere")
                before = names.get((device, generation - 1), {commit.previous if generation > 1 else bytes(32)})
                need(commit.previous in before, f"{path} does not follow the head before it")
            except Bad as error:
                self.damage.append(str(error))
                continue
            self.opened[name_hash], self.commits[name_hash] = head, commit
            for chunk in head.chunks:
                self.where.setdefault(chunk, []).append(name_hash)
            for listed in commit.objects:
                self.listed.setdefault(listed.hash, []).append(listed)
                for chunk in listed.chunks:
                    self.where.setdefault(chunk, []).append(listed.hash)
            if head.epoch == self.newest:
                newest.setdefault(device, commit)
        self.tips = self._tips(list(newest.values()))

    @staticmethod
    def _tips(heads):
        """Heads that together have all changes. Of two that have the same the newest."""
        def generation(head, device):
            return head.generation if head.device == device else head.processed.get(device, (0, b""))[0]

        def has_all_of(one, other):
            has = all(generation(one, device) >= named for device, (named, _) in other.processed.items())
            held = generation(one, other.device)
            return held >= other.generation or (held >= other.news and has)

        tips = []
        for head in sorted(heads, key=lambda head: (head.time, head.generation, head.device), reverse=True):
            if not any(has_all_of(tip, head) for tip in tips):
                tips = [tip for tip in tips if not has_all_of(head, tip)] + [head]
        return [head for head in heads if head in tips]

    def loser_number(self, ino, origin):
        """Section 16."""
        writer, record = origin
        hashed = keyed(self.loser_key, ino.to_bytes(8, "big") + writer.to_bytes(5, "big") + record.to_bytes(8, "big"))
        return 1 << 62 | int.from_bytes(hashed[:8], "little") & (1 << 62) - 1

    def object(self, name):
        if name not in self.opened:
            need(name in self.objects, f"object {name.hex()} is not here")
            self.opened[name] = Container(self, self.objects[name], name, (DATA, METADATA, INDEX_RUN))
        return self.opened[name]

    def _find(self, chunk, what):
        """Section 6: through the lists of commits, else through all directories."""
        trouble = f"{what} {chunk.hex()} is in no object"
        for name in self.where.get(chunk, []) + [name for name in self.objects if chunk not in self.where]:
            try:
                container = self.object(name)
                if chunk in container.chunks:
                    return container.chunk(chunk)
            except Bad as error:
                trouble = f"{what} {chunk.hex()}: {error}"
        raise Bad(trouble)

    def chunk(self, chunk):
        data = self._find(chunk, "chunk")
        need(keyed(self.chunk_key, data)[:16] == chunk, f"chunk {chunk.hex()} does not have its id")
        return data

    def node(self, node):
        data = self._find(node, "node")
        need(keyed(self.node_key, data)[:16] == node, f"node {node.hex()} does not have its id")
        need(len(data) <= NODE_MAX, f"node {node.hex()} is above its limit")
        return Input(data, f"node {node.hex()}")

    def check_ledgers(self):
        """Each device's newest ledger has all its containers but for the newest head."""
        newest = {}
        for name, commit in self.commits.items():
            if commit.generation > newest.get(commit.device, (0, b""))[0]:
                newest[commit.device] = commit.generation, name
        for device, (_, name) in newest.items():
            rows = Ledger(self).containers(*self.commits[name].ledger)
            need(all(owner == device for owner, _ in rows), f"the ledger of {device.hex()} has folders of others")
            own = [found for found in self.commits.items() if found[1].device == device]
            for head, commit in own:
                size, row = self.opened[head].size, rows.get((device, head))
                fine = head == name or row == (HEAD, commit.generation, size, 0)
                need(fine, f"{self.opened[head].path} is not in the ledger of its device")
                for listed in commit.objects:
                    path = self.objects.get(listed.hash, "")
                    row = rows.get((device, listed.hash), (0, 0, 0, 0))
                    fine = not path.startswith(device.hex()) or (row[0], row[2:]) == (listed.kind, (listed.size, 0))
                    need(fine, f"{path} is not in the ledger of its device")

    def check_all(self):
        """Every frame and chunk of every file, also what nothing refers to."""
        try:
            self.check_ledgers()
        except Bad as error:
            self.damage.append(str(error))
        for name in [*self.opened, *(name for name in self.objects if name not in self.opened)]:
            try:
                self.object(name).check(self)
                for listed in self.listed.get(name, []):
                    listed.check(self.opened[name])
            except Bad as error:
                self.damage.append(str(error))


class Tree:
    """Section 8: what both trees share. Subclasses read items and say where nodes end."""

    def __init__(self, repository):
        self.repository, self.last = repository, None

    def items(self, root, level, is_last=True, is_root=True):
        """Yields leaf items in order and checks the shape."""
        if root == NO_ID and is_root:
            need(level == 0, "an empty tree has level 0")
            return
        data = self.repository.node(root)
        need(data.number(1) == self.KIND + (level > 0), f"{data.what} is of another kind")
        need(level == 0 or data.number(1) == level, f"{data.what} is of another level")
        items = self.leaf(data) if level == 0 else self.branch(data)
        data.end()
        need(len(items) >= (2 if is_root and level else 1), f"{data.what} has too few items")
        weight = 0
        for count, item in enumerate(items, 1):
            weight += self.weight(item) if level == 0 else 0
            full = count == ITEMS_MAX or weight >= LEAF_BYTES or (count >= ITEMS_MIN and self.ends(level, item))
            need(full == (count == len(items)) or (is_last and count == len(items)), f"{data.what} ends in the wrong place")
        for index, item in enumerate(items):
            if level == 0:
                self.follow(item, data.what)
                yield item
            else:
                yield from self.below(item, level, is_last and index + 1 == len(items), data.what)


class Map(Tree):
    KIND = 1

    def key(self, data, last):
        common = data.var(len(last))
        key = last[:common] + data.bytes(KEY_MAX)
        shortest = key[common : common + 1] != last[common : common + 1] or common == len(last)
        need(last < key and shortest and len(key) <= KEY_MAX, f"{data.what}: keys are not in order")
        return key

    def leaf(self, data):
        writers = [read_writer(data) for _ in range(data.var(ITEMS_MAX * VALUES_MAX))]
        items, last, used = [], b"", set()
        for _ in range(data.var(ITEMS_MAX)):
            last, values = self.key(data, last), []
            for _ in range(data.var(VALUES_MAX)):
                index, record = data.var(len(writers) - 1), data.var()
                used.add(writers[index])
                values.append((writers[index], record, data.bytes(VALUE_MAX)))
            dots = [value[:2] for value in values]
            fine = values and dots == sorted(set(dots)) and all(record for _, record in dots)
            need(fine, f"{data.what}: values are not in order")
            items.append((last, values))
            need(self.weight(items[-1]) <= ITEM_BYTES_MAX, f"{data.what}: a key's values are above their limit")
        need(writers == sorted(used), f"{data.what}: its writers are not those of its values")
        return items

    def branch(self, data):
        items, last = [], b""
        for _ in range(data.var(ITEMS_MAX)):
            last = self.key(data, last)
            items.append((last, data.raw(16)))
        return items

    @staticmethod
    def weight(item):
        return 8 + len(item[0]) + sum(24 + len(value) for _, _, value in item[1])

    def ends(self, level, item):
        hashed = keyed(self.repository.boundary_key, bytes([level]) + item[0])
        return int.from_bytes(hashed[:4], "little") % 48 == 0

    def follow(self, item, what):
        need(self.last is None or self.last < item[0], f"{what}: keys are not in order")
        self.last = item[0]

    def below(self, item, level, is_last, what):
        for index, found in enumerate(self.items(item[1], level - 1, is_last, False)):
            need(index or found[0] == item[0], f"{what}: a child does not begin with its key")
            yield found


class Ledger(Map):
    KIND = 5

    def leaf(self, data):
        items, last = [], b""
        for _ in range(data.var(ITEMS_MAX)):
            last = self.key(data, last)
            items.append((last, data.bytes(VALUE_MAX)))
        return items

    @staticmethod
    def weight(item):
        return 8 + len(item[0]) + len(item[1])

    def containers(self, root, level):
        """Section 9: (device, hash) to (kind, generation, size, condemned)."""
        found = {}
        for key, value in self.items(root, level):
            data = Input(value, "a row of a ledger")
            if key[0] == 1:
                need(len(key) == 49, "a row of a ledger has another key")
                found[key[1:17], key[17:]] = data.number(1), data.var(), data.var(), data.var()
                data.end()
            elif key[0] == 2:
                need(len(key) == 9, "a row of a ledger has another key")
                read_time(data), data.raw(16), data.number(1), data.var(), data.var(), data.bytes(255).decode()
                data.end()
        return found


class Content(Tree):
    KIND = 3

    def leaf(self, data):
        items = []
        for _ in range(data.var(ITEMS_MAX)):
            chunk, size, count = data.raw(16), data.var(SIZE_MAX), data.var()
            need(size and (count == 1 if chunk == NO_ID else count and size <= FRAME_MAX), f"{data.what}: a bad run")
            items.append((chunk, size, count))
        return items

    def branch(self, data):
        return [(data.raw(16), data.var(SIZE_MAX)) for _ in range(data.var(ITEMS_MAX))]

    @staticmethod
    def weight(_item):
        return 0

    def ends(self, level, item):
        return item[0] != NO_ID and int.from_bytes(item[0][:4], "little") % 24 == 0

    def follow(self, item, what):
        joins = self.last and self.last[0] == item[0] and (item[0] == NO_ID or self.last[1] == item[1])
        need(not joins, f"{what}: two runs should be one")
        self.last = item

    def below(self, item, level, is_last, what):
        total = 0
        for found in self.items(item[0], level - 1, is_last, False):
            total += found[1] * found[2]
            yield found
        need(total == item[1], f"{what}: a child has another length")


def read_dot(data):
    writer, record = read_writer(data), data.var()
    need(record, f"{data.what}: a record is zero")
    return writer, record


def read_versions(data):
    """Section 9: runs of (writer, first record, last record)."""
    runs = []
    for _ in range(data.var(VERSIONS_MAX)):
        writer, first = read_dot(data)
        runs.append((writer, first, first + data.var((1 << 64) - 1 - first)))
    return runs


def read_content(data):
    level, root = data.number(1), data.raw(16)
    need(level <= LEVEL_MAX or level == 255, f"{data.what} is not content")
    return root, level


def read_inode(raw, ino):
    """Section 9."""
    found, unknown = {}, {}
    for tag, data in read_fields(Input(raw, f"inode {ino}"), VALUE_MAX):
        if tag in (1, 3, 8, 9, 11):
            found[tag] = data.var({1: 0o177777, 11: SIZE_MAX}.get(tag, (1 << 64) - 1))
            need(found[tag] or tag == 1, f"{data.what} is zero and should be absent")
        elif tag == 2:
            selves, *ids = data.number(1), data.var(0xFFFFFFFF), data.var(0xFFFFFFFF)
            fine = selves < 4 and not any(ids[bit] for bit in (0, 1) if selves >> bit & 1)
            need(fine, f"{data.what} is not an owner")
            found[tag] = selves, ids
        elif tag in (4, 5, 6, 7):
            found[tag] = read_time(data)
        elif tag == 10:
            kind = data.number(1)
            page = data.var(65536) if kind == 1 else 512
            need(kind in (1, 2, 3) and page >= 512 and page & page - 1 == 0, f"{data.what} is not a class")
        elif tag == 12:
            found[tag] = read_content(data)
        elif tag == 13:
            found[tag] = data.raw(data.left())
            need(found[tag], f"{data.what} is empty and should be absent")
        elif tag == 14:
            found[tag] = data.var(SIZE_MAX)
            need(found[tag], f"{data.what} is zero and should be absent")
        elif tag in (15, 16):
            found[tag] = read_versions(data)
            need(found[tag], f"{data.what} is empty and should be absent")
        elif tag == 17:
            found[tag] = [(data.var(), read_versions(data)) for _ in range(data.var(OVER_MAX))]
            need(found[tag], f"{data.what} is empty and should be absent")
        elif tag == 18:
            found[tag] = data.var(), read_dot(data)
        else:
            unknown[tag] = data.raw(data.left())
        data.end()
    need({1, 2, 4, 5, 6} <= set(found), f"inode {ino} lacks a field")
    inode = Inode(*(found[tag] for tag in (1, 2)), found.get(3, 0), *(found[tag] for tag in (4, 5, 6)), found.get(7),
                  *(found.get(tag, 0) for tag in (8, 9, 11)), found.get(12), found.get(13, b""), found.get(14, 0),
                  found.get(15), found.get(16), found.get(17, []), found.get(18), unknown)
    need(not inode.holes or inode.content and inode.content[1] != 255, f"inode {ino} has holes and no tree")
    limit = SYMLINK_MAX if stat.S_ISLNK(inode.mode) else INLINE_MAX
    fine = not (inode.content and inode.inline) and len(inode.inline) <= limit
    need(fine and len(inode.inline) <= inode.size, f"inode {ino}: its inline content does not fit")
    return inode


class Namespace:
    """Section 9: the map read into inodes and directories, and its laws."""

    def __init__(self, repository):
        self.repository = repository
        maps = [self.map(tip.root, tip.level) for tip in repository.tips] or [({}, {})]
        values, _seen = functools.reduce(reader_join.join, maps)
        joined = self.read(values)
        # A head that leaves repairs unstored has rows that say so.
        if len(maps) == 1 and not any(key[:9] == bytes(8) + b"\x0b" for key in values):
            self.take(joined)
        else:
            repaired = reader_join.Repair(joined, repository.loser_number, self.equal)
            self.inodes, self.xattrs, self.entries = repaired.plain_tree()
        self.check()

    def map(self, root, level):
        """All values of a head's map, and the highest record that it has seen of each writer."""
        seen, found = {}, {}
        for key, values in Map(self.repository).items(root, level):
            need(len(key) >= 9, "a key of the namespace is too short")
            if key[:9] == bytes(8) + b"\7":
                writer, record, _ = values[0]
                need(len(values) == 1 and key[9:] == writer.to_bytes(5, "big"), "the row of a writer is another's")
                seen[writer] = record
            # Rows of writers come before all else.
            fine = all(record <= seen.get(writer, 0) for writer, record, _ in values)
            need(fine, f"inode {int.from_bytes(key[:8], 'big')}: a value under a dot that was not seen")
            found[key] = {(writer, record): value for writer, record, value in values}
        return found, seen

    def read(self, joined):
        """All values of the kinds that are shown."""
        found = reader_join.Joined({}, {}, {}, {}, {}, set())
        for key, values in sorted(joined.items()):
            ino, kind, rest = int.from_bytes(key[:8], "big"), key[8], key[9:]
            if kind == 4:
                need(self.is_name(rest[8:]) and not any(values.values()), f"inode {ino}: a bad back reference")
                place = int.from_bytes(rest[:8], "big"), rest[8:]
                found.backs.setdefault(ino, {})[place] = sorted(values)
                continue
            if kind == 11:
                need(ino == 0 and len(rest) in (8, 16) and not any(values.values()), "a bad row of repairs")
            if kind not in (1, 3, 4, 5, 7, 9, 10, 11):
                found.opaque.add(ino)
            if kind == 3:
                need(1 <= len(rest) <= 255, f"inode {ino}: a bad name of an extended attribute")
            if kind == 5:
                name, hashed = rest[8:], keyed(self.repository.name_key, rest[8:])[:8]
                hashed = max(int.from_bytes(hashed, "little") >> 1, 4)
                need(self.is_name(name), f"directory {ino}: a bad name")
                need(rest[:8] == hashed.to_bytes(8, "big"), f"directory {ino}: a name's hash is not its own")
            for dot, value in sorted(values.items()):
                data = Input(value, f"a value of inode {ino}")
                if kind == 7:
                    need(ino == 0, "the row of a writer is another's")
                    found.devices[dot[0]] = data.raw(16), data.bytes(255).decode()
                    data.end()
                elif kind == 1:
                    need(not rest, f"inode {ino}: its key is too long")
                    found.records.setdefault(ino, []).append((dot, read_inode(value, ino)))
                elif kind == 3:
                    versions = read_versions(data)
                    all = found.xattrs.setdefault(ino, {}).setdefault(rest, [])
                    all.append((dot, versions, self.xattr(data)))
                elif kind == 5:
                    child, mode = data.var(), data.var(15) << 12
                    data.end()
                    found.entries.setdefault((ino, name), []).append((dot, child, mode))
        return found

    def take(self, joined):
        """A head without repairs that it does not store is a plain tree as it stands."""
        single = [*joined.records.values(), *joined.entries.values()]
        single += [values for all in joined.xattrs.values() for values in all.values()]
        single += [dots for all in joined.backs.values() for dots in all.values()]
        need(all(len(values) == 1 for values in single), "a key has concurrent values, which this head says are settled")
        self.inodes = {ino: inode for ino, [(_, inode)] in joined.records.items()}
        self.xattrs = {ino: {name: value for name, [(_, _, value)] in all.items() if value is not None}
                       for ino, all in joined.xattrs.items()}
        self.entries = {}
        for (dir, name), [(_, ino, mode)] in joined.entries.items():
            self.entries.setdefault(dir, {})[name] = ino, mode
        forward = {(dir, name, ino) for (dir, name), [(_, ino, _)] in joined.entries.items()}
        backs = {(*place, ino) for ino, places in joined.backs.items() for place in places}
        need(forward == backs, "entries and back references differ")
        origins = {ino: reader_join.origin_of(dot, inode.versions) for ino, [(dot, inode)] in joined.records.items()}
        for ino, inode in self.inodes.items():
            # A side file names the version of its database that is here.
            fine = not inode.main or origins.get(inode.main[0]) == inode.main[1]
            need(fine, f"inode {ino} stands beside another version of its database")

    def equal(self, one, other):
        """Whether two records have the same bytes."""
        if (stat.S_IFMT(one.mode), one.size) != (stat.S_IFMT(other.mode), other.size):
            return False
        if (one.content, one.inline) == (other.content, other.inline):
            return True
        hashes = []
        for inode in (one, other):
            hasher = blake3()
            for piece in self.bytes_of(inode, "a record"):
                hasher.update(piece)
            hashes.append(hasher.digest())
        return hashes[0] == hashes[1]

    def xattr(self, data):
        """The bytes of an extended attribute, or None where it was removed."""
        state = data.number(1)
        need(state <= 2, f"{data.what}: an extended attribute of another state")
        if state == 1:
            need(data.left() <= XATTR_INLINE_MAX, f"{data.what}: an extended attribute is too long")
            return data.raw(data.left())
        elif state == 2:
            size, (root, level) = data.var(XATTR_MAX), read_content(data)
            need(size > XATTR_INLINE_MAX, f"{data.what}: a short extended attribute in a chunk")
            runs = [(root, size, 1)] if level == 255 else Content(self.repository).items(root, level)
            found = b"".join(self.repository.chunk(chunk) * count for chunk, _, count in runs)
            need(len(found) == size, f"{data.what}: an extended attribute has another length")
            data.end()
            return found
        data.end()
        return None

    @staticmethod
    def is_name(name):
        return 1 <= len(name) <= 255 and name not in (b".", b"..") and b"/" not in name and b"\0" not in name

    def check(self):
        for dir, names in self.entries.items():
            need(dir in self.inodes and stat.S_ISDIR(self.inodes[dir].mode), f"{dir} has entries and is no directory")
            for ino, kind in names.values():
                fine = ino in self.inodes and stat.S_IFMT(self.inodes[ino].mode) == kind
                need(fine, f"directory {dir}: an entry does not fit inode {ino}")
        seen = set()
        for _path, ino in self.walk():
            need(ino not in seen or not stat.S_ISDIR(self.inodes[ino].mode), f"directory {ino} has two names")
            seen.add(ino)
        need(seen == set(self.inodes), "an inode has no path")

    def walk(self):
        """(path, inode number), parents first, sorted by path; the root is '.'."""
        found, todo, seen = [], [(b".", 1)] if 1 in self.inodes else [], set()
        while todo:
            path, ino = todo.pop()
            found.append((path, ino))
            if ino not in seen:
                seen.add(ino)
                for name, (child, _) in self.entries.get(ino, {}).items():
                    todo.append((name if path == b"." else path + b"/" + name, child))
        return sorted(found)

    def content(self, ino):
        """The bytes of a file, in pieces."""
        return self.bytes_of(self.inodes[ino], f"inode {ino}")

    def bytes_of(self, inode, what):
        """The bytes that a record has, in pieces."""
        total, holes = len(inode.inline), 0
        yield inode.inline
        if inode.content:
            root, level = inode.content
            if level == 255:
                runs = [(root, len(self.repository.chunk(root)), 1)]
            else:
                runs = Content(self.repository).items(root, level)
            for chunk, size, count in runs:
                total += size * count
                need(total <= inode.size, f"{what}: its content is longer than the file")
                if chunk == NO_ID:
                    holes += size
                    yield from zeros(size)
                    continue
                data = self.repository.chunk(chunk)
                need(len(data) == size, f"{what}: chunk {chunk.hex()} has another length")
                for _ in range(count):
                    yield data
        need(inode.holes <= holes + inode.size - total, f"{what}: its record says more holes than it has")
        yield from zeros(inode.size - total)


def zeros(count):
    for at in range(0, count, 1 << 20):
        yield bytes(min(1 << 20, count - at))


TYPES = {stat.S_IFREG: "f", stat.S_IFDIR: "d", stat.S_IFLNK: "l", stat.S_IFIFO: "p",
         stat.S_IFSOCK: "s", stat.S_IFCHR: "c", stat.S_IFBLK: "b"}


def escaped(raw):
    return "".join(chr(b) if 32 < b < 127 and b != 92 else f"\\x{b:02x}" for b in raw)


def list_tree(space, as_json):
    for path, ino in space.walk():
        inode = space.inodes[ino]
        kind = TYPES.get(stat.S_IFMT(inode.mode), "?")
        digest, shown, size, mode = "-", escaped(path), 0, f"{stat.S_IMODE(inode.mode):04o}"
        if kind in "fl":
            hasher = blake3()
            for piece in space.content(ino):
                hasher.update(piece)
            digest, size = hasher.hexdigest(), inode.size
        if as_json:
            selves, ids = inode.owner
            print(json.dumps({
                "path": path.decode(errors="backslashreplace"), "kind": kind, "mode": mode, "size": size,
                "blake3": digest, "inode": ino, "mtime": inode.mtime,
                "owner": ["self" if selves >> bit & 1 else ids[bit] for bit in (0, 1)],
                "xattrs": {name.decode(errors="backslashreplace"): value.hex()
                           for name, value in sorted(space.xattrs.get(ino, {}).items())}}))
            continue
        if kind == "l":
            shown += " -> " + escaped(b"".join(space.content(ino)))
        print(kind, mode, size, digest, shown)


def extract(space, dest):
    need(not os.path.isdir(dest) or not os.listdir(dest), f"{os.fsdecode(dest)} is not empty")
    os.makedirs(dest, exist_ok=True)
    first, dirs = {}, []
    for path, ino in space.walk():
        inode, target = space.inodes[ino], os.path.join(dest, path)
        if ino in first:
            os.link(first[ino], target, follow_symlinks=False)
            continue
        first[ino], kind = target, stat.S_IFMT(inode.mode)
        if kind == stat.S_IFDIR:
            os.makedirs(target, exist_ok=True)
            dirs.append((target, inode))
            continue
        if kind == stat.S_IFREG:
            with open(target, "xb") as file:
                for piece in space.content(ino):
                    file.write(piece)
        elif kind == stat.S_IFLNK:
            os.symlink(b"".join(space.content(ino)), target)
        elif kind == stat.S_IFIFO:
            os.mkfifo(target)
        else:
            del first[ino]
            print(f"reader.py: left out {escaped(path)}: a device or socket", file=sys.stderr)
            continue
        settle(target, inode)
    for target, inode in reversed(dirs):
        settle(target, inode)


def settle(target, inode):
    if not stat.S_ISLNK(inode.mode):
        os.chmod(target, stat.S_IMODE(inode.mode))
    time = inode.mtime[0] * 10**9 + inode.mtime[1]
    os.utime(target, ns=(time, time), follow_symlinks=False)


def read_key(path):
    digits = re.sub(r"[\s-]", "", sys.stdin.read() if path == "-" else Path(path).read_text())
    need(re.fullmatch(r"[0-9a-fA-F]{64}", digits), "the key file does not hold 64 hexadecimal digits")
    return bytes.fromhex(digits)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("repo")
    parser.add_argument("--key-file", required=True)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list").add_argument("--json", action="store_true")
    commands.add_parser("extract").add_argument("dest", type=os.fsencode)
    arguments = parser.parse_args()
    try:
        repository = Repository(arguments.repo, read_key(arguments.key_file))
        space = Namespace(repository)
        extract(space, arguments.dest) if arguments.command == "extract" else list_tree(space, arguments.json)
        repository.check_all()
        need(not repository.damage, "; ".join(repository.damage))
    except (Bad, OSError) as error:
        sys.stdout.flush()
        sys.exit(f"reader.py: {error}")


if __name__ == "__main__":
    main()
