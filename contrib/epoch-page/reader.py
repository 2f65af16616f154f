#!/usr/bin/env python3
"""A client that keeps a verdict, written from docs/protocol.md and docs/epoch-page.md alone.

It is an example for writers of clients in other languages, and a test of those two pages. Run it as

    reader.py SOCKET

and write commands to its standard input; each is answered by one JSON object on a line.

    header            what the page says of itself
    validate SCOPES   asks for the token of the next line, and keeps the verdict if it may be kept
    check             whether what is kept counts, by the page alone
    report COUNT      tells the daemon of so many uses of what is kept

The token is read from standard input and is in no argument and no answer.

Python has no memory fences. On x86 loads are not reordered with loads, and each word is loaded by itself, in the order
that is written down here. On other processors take a language that has an acquiring load.
"""

import fcntl
import json
import mmap
import os
import socket
import struct
import sys
import time

MAGIC = b"bearerd\0"
FLAG_PAGE = 1

# docs/epoch-page.md: what has to be sealed, and where the words are.
F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_FUTURE_WRITE = 0x1, 0x2, 0x4, 0x10
SEALS = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE
F_GET_SEALS = 1034
LENGTH = 528384
SLOTS = 65536
FIRST_SLOT = 512
(AT_MAGIC, AT_VERSION, AT_SLOTS, AT_STATE, AT_GENERATION, AT_HEARTBEAT, AT_OFFSET) = range(7)
OPEN, ASK = 1, 2
LEASE = 1_000_000
SKEW_MAX = 50_000


def boottime():
    """CLOCK_BOOTTIME in microseconds."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


class NotAPage(Exception):
    """What came is no epoch page of version 1: nothing is kept."""


class Page:
    """The epoch page, to be read."""

    def __init__(self, descriptor):
        try:
            # Before it is mapped: of a file that could be cut, a load could kill us.
            seals = fcntl.fcntl(descriptor, F_GET_SEALS)
            if seals & SEALS != SEALS:
                raise NotAPage("it is not sealed")
            if os.fstat(descriptor).st_size != LENGTH:
                raise NotAPage("it has another length")
            self._map = mmap.mmap(descriptor, LENGTH, mmap.MAP_SHARED, mmap.PROT_READ)
        except OSError as error:
            raise NotAPage(error.strerror) from error
        finally:
            # The mapping stays.
            os.close(descriptor)
        self._words = memoryview(self._map).cast("Q")
        self._void = False
        header = [self.word(at) for at in (AT_MAGIC, AT_VERSION, AT_SLOTS)]
        if header != [int.from_bytes(b"bearerdp", "little"), 1, SLOTS]:
            raise NotAPage("it has another magic number, version or number of slots")

    def word(self, at):
        """One word, by one load: 8 bytes in the byte order of this machine."""
        return self._words[at]

    def slot(self, number):
        return self.word(FIRST_SLOT + number)

    def check(self, generation, slot, value, good_until):
        """Whether what was kept under this counts: good, changed, ask or void. In this order."""
        if self._void:
            return "void"
        state = self.word(AT_STATE)
        if state != OPEN:
            if state == ASK:
                return "ask"
            self._void = True
            return "void"
        if slot >= SLOTS or self.slot(slot) != value:
            return "changed"
        if self.word(AT_GENERATION) != generation:
            return "changed"
        heartbeat = self.word(AT_HEARTBEAT)
        offset = self.word(AT_OFFSET)
        # Last: it is later than all that was read.
        now = boottime()
        if heartbeat > now:
            self._void = heartbeat - now > SKEW_MAX
            return "void" if self._void else "ask"
        if now - heartbeat >= LEASE:
            return "ask"
        if good_until is not None and (now + offset) % 2**64 >= good_until:
            return "changed"
        return "good"


class Decoder:
    """The encoding of docs/protocol.md, read."""

    def __init__(self, content):
        self._content, self._at = content, 0

    def take(self, count):
        piece = self._content[self._at : self._at + count]
        if len(piece) != count:
            raise ValueError("the content is too short")
        self._at += count
        return piece

    def number(self):
        value = shift = 0
        while True:
            (byte,) = self.take(1)
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                if byte == 0 and shift > 7:
                    raise ValueError("a number takes more bytes than it needs")
                return value

    def boolean(self):
        (byte,) = self.take(1)
        if byte > 1:
            raise ValueError("neither true nor false")
        return byte == 1

    def bytes(self):
        return self.take(self.number())

    def text(self):
        return self.bytes().decode()

    def option(self, of):
        return of() if self.boolean() else None

    def list(self, of):
        return [of() for _ in range(self.number())]

    def id(self):
        return self.take(16)

    def duration(self):
        return self.number(), self.number()

    def address(self):
        return self.take((4, 16)[self.number()])

    def end(self):
        if self._at != len(self._content):
            raise ValueError("bytes after the value")

    def token_info(self):
        """Read for what comes behind it."""
        self.id()
        self.option(self.text)
        self.number()
        info = {"name": self.text(), "subject": self.text(), "issuer": self.text(), "issuer_uid": self.number()}
        info["scopes"] = self.list(self.text)
        self.list(self.text)
        self.number()
        for of in (self.number, self.number, self.number, self.duration):
            self.option(of)
        self.list(lambda: (self.text(), self.text()))
        self.option(self.text)
        self.option(self.number)
        self.option(self.number)
        self.option(lambda: (self.number(), self.duration()))
        self.list(self.text)
        self.list(self.text)
        self.list(self.number)
        self.id()
        for of in (self.id, self.id, self.number, self.text):
            self.option(of)
        self.number()
        self.option(
            lambda: (self.number(), self.option(self.text), self.number(), self.option(self.address), self.number())
        )
        return info

    def verdict(self):
        active = self.boolean()
        reason = self.option(self.number)
        missing = self.list(self.text)
        return {"active": active, "reason": reason, "missing": missing, "token": self.option(self.token_info)}

    def cacheable(self):
        return {
            "generation": self.number(),
            "slot": self.number(),
            "value": self.number(),
            "good_until": self.option(self.number),
            "ticket": self.bytes(),
        }


def number(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def sized(value):
    return number(len(value)) + value


class Client:
    """One connection, one request at a time."""

    def __init__(self, path):
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(30)
        self._socket.connect(path)
        self._received = b""
        self._next = 0
        self.page = None
        before = boottime()
        self._send(MAGIC + number(1) + number(1) + number(FLAG_PAGE))
        # The descriptor comes with the first byte of the answer.
        self._received, descriptors, flags, _ = socket.recv_fds(self._socket, 4096, 253)
        hello = Decoder(self._frame())
        if hello.take(8) != MAGIC or hello.number() != 1:
            raise SystemExit("this is no bearerd of version 1")
        granted = hello.number()
        hello.number(), hello.number(), hello.number()
        daemons = hello.number()
        hello.end()
        if granted == FLAG_PAGE and len(descriptors) == 1 and not flags & socket.MSG_CTRUNC:
            try:
                page = Page(descriptors[0])
            except NotAPage as error:
                print(f"nothing is kept: {error}", file=sys.stderr)
            else:
                # Else it is another clock, or a slow answer: nothing is proven, and nothing is kept.
                self.page = page if abs(daemons - before) <= SKEW_MAX else None
        else:
            for descriptor in descriptors:
                os.close(descriptor)

    def _send(self, content):
        self._socket.sendall(struct.pack("<I", len(content)) + content)

    def _frame(self):
        def need(count):
            while len(self._received) < count:
                more = self._socket.recv(65536)
                if not more:
                    raise SystemExit("the daemon has closed the connection")
                self._received += more

        need(4)
        (length,) = struct.unpack_from("<I", self._received)
        if not 0 < length <= 8388608:
            raise SystemExit("a frame is empty or too long")
        need(4 + length)
        content, self._received = self._received[4 : 4 + length], self._received[4 + length :]
        return content

    def _ask(self, body):
        self._next += 1
        self._send(number(self._next) + body)
        reply = Decoder(self._frame())
        if reply.number() != self._next:
            raise SystemExit("a reply to something else")
        return reply, reply.number()

    def validate(self, token, scopes):
        """The verdict, and how it may be kept: None = it may not."""
        body = number(0) + sized(token) + number(len(scopes)) + b"".join(sized(scope.encode()) for scope in scopes)
        reply, answer = self._ask(body + bytes(4))  # no audience, no address, no note, no peek
        if answer == 0:
            return {"active": False, "error": reply.number(), "message": reply.text()}, None
        if answer not in (1, 17):
            raise SystemExit("a reply that is none to this")
        verdict = reply.verdict()
        cacheable = reply.option(reply.cacheable) if answer == 17 else None
        reply.end()
        return verdict, cacheable

    def report(self, ticket, count, first, last):
        body = number(22) + number(1) + sized(ticket) + number(count) + number(first) + number(last)
        reply, answer = self._ask(body)
        return answer == 18 or reply.number()


def main():
    client = Client(sys.argv[1])
    kept = None

    def say(**what):
        print(json.dumps(what), flush=True)

    for line in sys.stdin:
        command, *words = line.split()
        page = client.page
        if command == "header":
            if page is None:
                say(page=False)
                continue
            words = [page.word(at) for at in range(7)]
            rest = any(page.word(at) for at in range(7, FIRST_SLOT))
            say(page=True, words=words, rest=rest, age=boottime() - words[AT_HEARTBEAT])
        elif command == "validate":
            token = sys.stdin.readline().strip().encode()
            verdict, cacheable = client.validate(token, words)
            # Only an active verdict, under the page of the connection that it came on.
            kept = cacheable if verdict["active"] and page else None
            stamp = kept and {key: kept[key] for key in ("generation", "slot", "value", "good_until")}
            say(active=verdict["active"], reason=verdict.get("reason"), stamp=stamp, seen=kept and page.slot(kept["slot"]))
        elif command == "check":
            if kept is None:
                say(check="nothing is kept")
                continue
            say(check=page.check(kept["generation"], kept["slot"], kept["value"], kept["good_until"]))
        elif command == "report":
            now = (boottime() + page.word(AT_OFFSET)) % 2**64
            say(reported=client.report(kept["ticket"], int(words[0]), now, now))
        else:
            raise SystemExit(f"{command}: no such command")


if __name__ == "__main__":
    main()
