"""Joins what several devices wrote apart to one plain tree, by docs/merging.md, sections 4 to 6.

Keys and values come in as `reader.py` reads them; nothing here knows of files or seals. A dot and
an origin are (writer, record). Runs of versions are (writer, first record, last record).
"""
import datetime
import re
import stat
from collections import namedtuple

ROOT = 1
NAME_MAX, DEVICE_MAX, ENDING_MAX, SIDE_MAX = 255, 32, 32, 8
SIDE_SUFFIXES = (b"-journal", b"-shm", b"-wal")
# What stands in a name because a repair put it there.
MARK = re.compile(rb"(?s). \(from .*, ([0-9-]{10}|no date) [0-9a-fA-F]{4}\)")

# All values of a joined namespace. `records`: inode to [(dot, inode)]. `xattrs`: inode to name to
# [(dot, versions, bytes or None where it was removed)]. `entries`: (directory, name) to
# [(dot, inode, type)]. `backs`: inode to (directory, name) to [dot]. `devices`: writer to
# (device id, name). `opaque`: inodes with kinds that are kept as they are. Lists ascend by dot.
Joined = namedtuple("Joined", "records xattrs entries backs devices opaque")
# One value of a file's record.
Version = namedtuple("Version", "dot inode")
# A name of an inode: where the inode has its place.
Link = namedtuple("Link", "dir name ino")
# What stands under a name. `version` is None for what an inode shows under its own number, else a
# version of the file `of` that has the number `ino`.
Shown = namedtuple("Shown", "ino of version")
# A side file as it goes with a version of its database: that version has the origin `source`.
Side = namedtuple("Side", "ino main source version")


def join(left, right):
    """Section 4: of each key {dot: value}, and of each writer the highest record *seen*."""
    (left, left_seen), (right, right_seen) = left, right
    joined = {}
    for key in left.keys() | right.keys():
        mine, theirs, values = left.get(key, {}), right.get(key, {}), {}
        for dot in mine.keys() | theirs.keys():
            if dot in mine and dot in theirs:
                values[dot] = min(mine[dot], theirs[dot])
            elif dot in mine and dot[1] > right_seen.get(dot[0], 0):
                values[dot] = mine[dot]
            elif dot in theirs and dot[1] > left_seen.get(dot[0], 0):
                values[dot] = theirs[dot]
        if values:
            joined[key] = values
    writers = left_seen.keys() | right_seen.keys()
    return joined, {writer: max(left_seen.get(writer, 0), right_seen.get(writer, 0)) for writer in writers}


def origin_of(dot, runs):
    return (runs[-1][0], runs[-1][2]) if runs else dot


def contain(runs, origin):
    return any(writer == origin[0] and first <= origin[1] <= last for writer, first, last in runs or [])


def origin(version):
    """The origin of a record's content."""
    return origin_of(version.dot, version.inode.versions)


def unreplaced(values):
    """Of (dot, runs, value) those that no other one replaced; all, if each was."""
    def is_replaced(dot, runs):
        old = origin_of(dot, runs)
        return any(origin_of(other, by) != old and contain(by, old) for other, by, _ in values)

    return [value for value in values if not is_replaced(*value[:2])] or values


def newest_attributes(versions):
    """The record that has the attributes that count."""
    left = unreplaced([(v.dot, v.inode.attribute_versions, v) for v in versions])
    return max(left, key=lambda value: (value[2].inode.ctime, origin_of(*value[:2]), value[0]))[2].inode


def is_dir(versions):
    return stat.S_ISDIR(versions[-1].inode.mode)


def main_name(name):
    """The name of the database beside which a file of this name would stand, or None."""
    for suffix in SIDE_SUFFIXES:
        if name.endswith(suffix):
            main = name[: -len(suffix)]
            return main if main and not main.endswith(SIDE_SUFFIXES) else None
    return None


def cut(name, most):
    """At most so many bytes, and no part of a character at the end."""
    if len(name) <= most:
        return name
    return next((name[:at] for at in range(most, most - 4, -1) if name[at] & 0xC0 != 0x80), name[:most])


def added(name, text):
    """The name with a text before its ending."""
    at = name.rfind(b".")
    at = at if at > 0 and len(name) - at <= ENDING_MAX else len(name)
    stem, ending, text = name[:at], name[at:], text.encode()
    return cut(stem, NAME_MAX - SIDE_MAX - len(text) - len(ending)) + text + ending


def database_name(name):
    """The name for a database that cannot have this one; it does not end like a side file's."""
    return cut(name, NAME_MAX - SIDE_MAX - 2) + b" 2" if name.endswith(SIDE_SUFFIXES) else added(name, " 2")


def day(time):
    try:
        return (datetime.date(1970, 1, 1) + datetime.timedelta(time[0] // 86400)).isoformat()
    except OverflowError:
        return "no date"


class Repair:
    """Sections 5 and 6: what a joined namespace shows.

    `number(inode, origin)` makes loser numbers. `equal(one, other)` tells whether two records have
    the same bytes.
    """

    def __init__(self, joined, number, equal):
        self.joined, self.hashed, self.equal = joined, number, equal
        self.records = {ino: [Version(*v) for v in values] for ino, values in joined.records.items()}
        self.shown, self.united, self.losers, self.main_of = {}, {}, [], {}
        self.find_places()
        self.read_files()
        self.keep_names()
        self.drop_given_names()
        self.show_directories()
        self.show_versions()
        self.name_losers()
        self.set_apart()
        rooms = self.make_room()
        # Before one of them is shown: two may have one name.
        places = [self.own_places(at, self.database(side)[0]) for at, side in enumerate(self.sides)]
        for at in range(len(self.sides)):
            self.stand_beside(at, places[at], rooms)

    # --- names

    def find_places(self):
        """One place for every directory, at least one for every file: self.links."""
        self.dirs = {ino: is_dir(versions) for ino, versions in self.records.items()}
        self.dirs[ROOT] = True
        claims, self.links, nameless = {}, {}, set()
        for (dir, name), values in self.joined.entries.items():
            for dot, ino, _ in values:
                if self.dirs.get(dir) and ino in self.records and ino != ROOT:
                    claims.setdefault(ino, {})[Link(dir, name, ino)] = dot
        for ino in sorted(self.records.keys() - {ROOT}):
            own = claims.get(ino)
            if not own:
                nameless.add(ino)
                own = self.names_again(ino)
            if self.dirs[ino]:
                own = [max(own, key=lambda link: (own[link], link))]
            self.links[ino] = sorted(own)
        while True:
            # In a directory whose name went nothing is shown: only its record outlived it.
            used = {link.dir for links in self.links.values() for link in links}
            gone = [ino for ino in nameless if self.dirs[ino] and ino in self.links and ino not in used]
            if not gone:
                break
            for ino in gone:
                del self.links[ino]
        self.cut_cycles()

    def names_again(self, ino):
        """An inode without entries: the names that whoever kept it alive knew."""
        known = {Link(*place, ino): max(dots) for place, dots in self.joined.backs.get(ino, {}).items()}
        own = {link: dot for link, dot in known.items() if self.dirs.get(link.dir)}
        if own:
            return {link: dot for link, dot in own.items() if dot == max(own.values())}
        name = min(known).name if known else b"inode %x" % ino
        return {Link(ROOT, name, ino): self.records[ino][-1].dot}

    def cut_cycles(self):
        safe = {ROOT}
        for start in sorted(ino for ino in self.links if self.dirs[ino]):
            path, at = [], start
            while at not in safe and at not in path:
                path.append(at)
                at = self.links[at][0].dir
            if at not in safe:
                lowest = min(path[path.index(at) :])
                self.links[lowest] = [self.links[lowest][0]._replace(dir=ROOT)]
            safe.update(path)

    def keep_names(self):
        """A database with side files has the names that whoever wrote its version last knew."""
        for side in (self.sides[at] for at in self.first.values()):
            own = [v.dot for v in self.records[side.main] if origin(v) == side.source]
            links, backs = self.links.get(side.main, []), self.joined.backs.get(side.main, {})
            if own and links:
                writer = max(own)[0]
                known = [link for link in links if any(dot[0] == writer for dot in backs.get(link[:2], []))]
                # Beside a name that ends like a side file's there is no room for one.
                fit = [link for link in links if not link.name.endswith(SIDE_SUFFIXES)]
                self.links[side.main] = known if any(link in fit for link in known) else (fit or links)[:1]

    def drop_given_names(self):
        """A name that a repair gave goes if the maker of the version shown knew another name and not this one."""
        for ino, links in self.links.items():
            version = self.best(ino)
            if len(links) > 1 and version and not self.dirs[ino]:
                backs, writer = self.joined.backs.get(ino, {}), version.dot[0]
                known = {link for link in links if any(dot[0] == writer for dot in backs.get(link[:2], []))}
                given = {link for link in links if MARK.search(link.name)}
                if known - given:
                    self.links[ino] = [link for link in links if link in known or link not in given]

    # --- contents

    def contents(self, values, is_bound):
        """The contents that are shown, the winner first."""
        left = [value[2] for value in unreplaced([(v.dot, v.inode.versions, v) for v in values])]
        found = []
        for version in sorted(left, key=lambda v: (v.inode.mtime, origin(v), v.dot), reverse=True):
            for other in found:
                ends = origin(version), origin(other)
                if ends[0] == ends[1] or not any(map(is_bound, ends)) and self.equal(version.inode, other.inode):
                    break
            else:
                found.append(version)
        return found

    def side_of(self, version):
        """The version of a database with which a value goes, if anything is known of it."""
        if not version.inode.main:
            return None
        main, source = version.inode.main
        values = self.records.get(main, [])
        if not values or is_dir(values) or any(v.inode.main for v in values):
            return None
        known = any(origin(v) == source or contain(v.inode.versions, source) for v in values)
        return (main, source) if known else None

    def read_files(self):
        """self.plain: versions that are shown by themselves; self.sides: those that go with a
        database; self.first: of a file the place in these of the one under its own number."""
        files = {ino: values for ino, values in self.records.items() if not is_dir(values)}
        sides = {ino for ino, values in files.items() if any(v.inode.main for v in values)}
        self.bound = {self.side_of(v) for values in files.values() for v in values} - {None}
        self.plain, self.sides, self.first = {}, [], {}
        # Versions of databases with which side files are shown that somebody else has apart from them.
        self.shows_for_others = set()
        for ino in files.keys() - sides:
            self.plain[ino] = self.contents(files[ino], lambda source, ino=ino: (ino, source) in self.bound)
        for ino in sorted(sides):
            self.read_side(ino, files[ino])

    def read_side(self, ino, values):
        own, loose = {}, []
        for version in values:
            goes_with = self.side_of(version)
            if goes_with:
                own[goes_with] = version
            else:
                loose.append(version)
        own = [Side(ino, *goes_with, own[goes_with]) for goes_with in sorted(own)]
        # With a version that was replaced its side files were.
        own = [side for side in own if side.source in map(origin, self.plain[side.main])]
        mine = [side.version for side in own]
        loose = self.contents(loose, lambda _: False)
        apart = {origin(v) for v in loose}
        self.shows_for_others |= {(side.main, side.source) for side in own if origin(side.version) in apart}
        loose = [v for v in loose if not any(
            origin(m) == origin(v) or contain(m.inode.versions, origin(v)) for m in mine)]
        if loose:
            self.plain[ino] = loose
        winners = [side for side in own if origin(self.plain[side.main][0]) == side.source]
        if winners:
            self.first[ino] = len(self.sides) + own.index(max(winners, key=lambda side: side.version.dot))
        self.sides += own

    def best(self, ino):
        """The version of a file under its own number."""
        if ino in self.first:
            return self.sides[self.first[ino]].version
        return self.plain.get(ino, [None])[0]

    def number(self, ino, source):
        """The number of a version as a file of its own, and whether somebody stored it as that. A
        side file that was stored is not shown where its database's version was replaced."""
        number = self.hashed(ino, source)
        while number in self.records:
            if any(origin(v) == source or contain(v.inode.versions, source) for v in self.records[number]):
                return number, number in self.plain or any(side.ino == number for side in self.sides)
            number = self.hashed(number, source)
        return number, False

    # --- what stands under each name

    def show_directories(self):
        children = {}
        for ino in sorted(self.links):
            for link in self.links[ino]:
                children.setdefault(link.dir, []).append(link)
        groups = [[ROOT]]
        while groups:
            group, names = groups.pop(), {}
            self.united.update({member: group[0] for member in group})
            for link in (link for member in group for link in children.get(member, [])):
                names.setdefault(link.name, []).append(link)
            for name, links in names.items():
                dirs = sorted(link.ino for link in links if self.dirs[link.ino])
                if dirs:
                    self.shown[group[0], name] = Shown(dirs[0], None, None)
                    groups.append(dirs)
                self.show_files(group[0], name, [link.ino for link in links if not self.dirs[link.ino]])

    def show_files(self, dir, name, inos):
        """The files that claim a name: one has it, the others lose it."""
        # A side file goes where its database goes.
        inos = {ino for ino in inos if self.best(ino) and not (ino in self.first and main_name(name))}

        def is_under(ino):
            source = origin(self.best(ino))
            if (ino, source) in self.shows_for_others:
                return False
            over = [found for other in inos for found in self.best(other).inode.over]
            return len(self.plain.get(ino, [])) == 1 and any(of == ino and contain(runs, source) for of, runs in over)

        claims = []
        for ino in sorted({ino for ino in inos if not is_under(ino)} or inos):
            # Of equal files the lowest stands for all.
            if not any(self.alike(ino, other) for other in claims):
                claims.append(ino)
        claims.sort(key=lambda ino: (self.best(ino).inode.mtime, ino), reverse=True)
        if claims and (dir, name) not in self.shown:
            self.shown[dir, name] = Shown(claims.pop(0), None, None)
        for ino in claims:
            self.lose(dir, name, Shown(ino, None, None), self.best(ino))

    def alike(self, ino, other):
        """Whether two files of one name are one."""
        def what(ino):
            inode = newest_attributes(self.records[ino])
            shown = {name: self.xattr(values) for name, values in self.joined.xattrs.get(ino, {}).items()}
            shown = {name: value for name, value in shown.items() if value is not None}
            return inode.mode, inode.owner, inode.device, inode.flags, inode.project, inode.unknown, shown

        databases = {ino for ino, _ in self.bound}
        apart = any(ino in self.joined.opaque or ino in databases for ino in (ino, other))
        return not apart and what(ino) == what(other) and self.equal(self.best(ino).inode, self.best(other).inode)

    @staticmethod
    def xattr(values):
        return max(unreplaced(values), key=lambda value: value[0])[2]

    def show_versions(self):
        """Versions that lost against another one of their file."""
        for ino in self.links.keys() & self.plain.keys():
            place = min((self.united[link.dir], link.name) for link in self.links[ino])
            for version in self.plain[ino][int(ino not in self.first) :]:
                number, is_stored = self.number(ino, origin(version))
                if not is_stored:
                    self.lose(*place, Shown(number, ino, version), version)

    def lose(self, dir, name, shown, version):
        self.losers.append((dir, self.loser_name(name, shown.ino, version), shown))

    def loser_name(self, name, ino, version):
        source = origin(version)
        device = "another device"
        if source[0] in self.joined.devices:
            id, device = self.joined.devices[source[0]]
            device = "".join(c for c in device if c != "/" and not (ord(c) < 32 or 127 <= ord(c) < 160))
            device = cut(device.lstrip(".").encode(), DEVICE_MAX).decode() or id[:4].hex()
        digits = self.hashed(ino, source) & 0xFFFF
        return added(name, f" (from {device}, {day(version.inode.mtime)} {digits:04x})")

    def name_losers(self):
        """Gives losers names that nobody has."""
        for dir, wanted, shown in sorted(self.losers, key=lambda loser: (*loser[:2], loser[2].ino)):
            self.put(dir, wanted, shown)

    def put(self, dir, wanted, shown):
        """Shows something under a name, or with a number in it if the name is taken. Under its
        new name it stands beside no database, and no file beside it."""
        def is_taken(name):
            main = main_name(name)
            beside = [main] if main else [name + suffix for suffix in SIDE_SUFFIXES]
            return any((dir, name) in self.shown for name in [name, *beside])

        name, count = wanted, 1
        while is_taken(name):
            count += 1
            name = added(wanted, f" {count}")
        self.shown[dir, name] = shown
        return name

    # --- databases

    def version_of(self, shown):
        return shown.version or self.best(shown.ino)

    def is_file(self, place):
        shown = self.shown.get(place)
        return shown and not self.dirs.get(shown.ino) and stat.S_ISREG(self.version_of(shown).inode.mode)

    def set_apart(self):
        """A file that only its name makes a side file does not stand beside a database."""
        def is_apart(dir, name):
            main = main_name(name)
            if not main or not self.is_file((dir, name)) or not self.is_file((dir, main)):
                return False
            side, main = self.shown[dir, name], self.shown[dir, main]
            # One file under both names, or one that has side files too and goes with this version.
            goes_with = main.of or main.ino, origin(self.version_of(main))
            return side.ino != main.ino and self.version_of(side).inode.main != goes_with

        for dir, name in [place for place in sorted(self.shown) if is_apart(*place)]:
            shown = self.shown.pop((dir, name))
            self.put(dir, self.loser_name(name, shown.ino, self.version_of(shown)), shown)

    def database(self, side):
        """The file that shows the version with which a side file goes, and whether somebody
        stored it as a file of its own."""
        if origin(self.plain[side.main][0]) == side.source:
            return side.main, False
        return self.number(side.main, side.source)

    def suffix(self, side):
        """What a side file adds to its database's name: as whoever wrote it last knew it."""
        backs = sorted(self.joined.backs.get(side.ino, {}).items())
        writer = side.version.dot[0]
        own = [place[1] for place, dots in backs if any(dot[0] == writer for dot in dots)]
        names = own + [link.name for link in self.links.get(side.ino, [])] + [place[1] for place, _ in backs]
        name = next((name for name in names if main_name(name)), b"-wal")
        return next(suffix for suffix in SIDE_SUFFIXES if name.endswith(suffix))

    def names_of(self, ino):
        return sorted(place for place, shown in self.shown.items() if shown.ino == ino)

    def fits(self, place, suffix):
        """Whether a side file can stand beside a file of this name."""
        dir, name = place
        beside = name + suffix
        return not name.endswith(SIDE_SUFFIXES) and len(beside) <= NAME_MAX and (dir, beside) not in self.shown

    def own_places(self, at, db):
        """The names that a side file has beside its database, and where there is room for it."""
        side = self.sides[at]
        if self.first.get(side.ino) != at:
            return []
        own = {(self.united[link.dir], link.name) for link in self.links.get(side.ino, [])}
        return [((dir, name), suffix) for dir, name in self.names_of(db) for suffix in SIDE_SUFFIXES
                if (dir, name + suffix) in own and self.fits((dir, name), suffix)]

    def make_room(self):
        """The name of each database beside which those of its side files stand that have no place
        of their own. Where there is no room beside any, it gets another name."""
        sides, rooms = {}, {}
        for at, side in enumerate(self.sides):
            db, is_stored = self.database(side)
            if not is_stored:
                sides.setdefault(db, []).append(at)
        for db, those in sorted(sides.items()):
            names = self.names_of(db)
            if not names or all(self.own_places(at, db) for at in those):
                continue
            suffixes = [self.suffix(self.sides[at]) for at in those]
            fit = [place for place in names if all(self.fits(place, suffix) for suffix in suffixes)]
            if fit:
                rooms[db] = fit[0]
            else:
                dir, name = names[0]
                rooms[db] = dir, self.put(dir, database_name(name), self.shown.pop((dir, name)))
        return rooms

    def stand_beside(self, at, places, rooms):
        """A side file is shown beside the version of its database with which it was written."""
        side = self.sides[at]
        db, is_stored = self.database(side)
        if is_stored:
            return
        is_first, number = self.first.get(side.ino) == at, side.ino
        while number == side.ino and not is_first or number != side.ino and number in self.records:
            number = self.hashed(number, side.source)
        shown = Shown(number, None, None) if is_first else Shown(number, side.ino, side.version)
        room = [(rooms[db], self.suffix(side))] if db in rooms else []
        for (dir, name), suffix in places or room:
            self.main_of[number] = db, side.source
            if (dir, name + suffix) in self.shown:
                # It had two names, and a log at each.
                name = self.put(dir, database_name(name), self.shown[dir, name])
            self.shown[dir, name + suffix] = shown

    # --- the plain tree

    def inode(self, shown):
        """The record of what stands under a name."""
        records = self.records.get(shown.of or shown.ino)
        newest = newest_attributes(records)
        if self.dirs.get(shown.ino):
            inode = records[-1].inode._replace(mtime=max(v.inode.mtime for v in records))
        else:
            inode = self.version_of(shown).inode
        return inode._replace(mode=newest.mode, owner=newest.owner, device=newest.device, ctime=newest.ctime,
                              atime=newest.atime, flags=newest.flags, project=newest.project, unknown=newest.unknown,
                              main=self.main_of.get(shown.ino, inode.main))

    def plain_tree(self):
        """Inodes by number, extended attributes by inode, names by directory."""
        inodes, xattrs, entries = {}, {}, {}
        shown = {place: self.shown[place] for place in sorted(self.shown)}
        root = {(0, b""): Shown(ROOT, None, None)} if ROOT in self.records else {}
        for (dir, name), what in (root | shown).items():
            inodes[what.ino] = self.inode(what)
            all = self.joined.xattrs.get(what.of or what.ino, {})
            xattrs[what.ino] = {name: self.xattr(values) for name, values in all.items()}
            if dir:
                entries.setdefault(dir, {})[name] = what.ino, stat.S_IFMT(inodes[what.ino].mode)
        return inodes, {ino: {n: v for n, v in all.items() if v is not None} for ino, all in xattrs.items()}, entries
