#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A TCP proxy that delays, cuts and swallows.

    proxy.py PORT HOST TARGET_PORT CONTROL

Listens on 127.0.0.1:PORT and forwards to HOST:TARGET_PORT. CONTROL is the path of a datagram socket
that takes commands: `delay MS`, `cut` (resets every connection), `blackhole` (forwards nothing,
keeps everything open), `refuse` (accepts no connection and cuts the open ones), `heal`.
"""

import collections
import os
import select
import socket
import struct
import sys
import time


class Side:
    def __init__(self, sock):
        self.sock = sock
        self.other = None
        self.queue = collections.deque()    # (due, bytes) to be sent on this socket
        self.queued = 0
        self.ended = False                  # no more comes from the other one


class Proxy:
    LIMIT = 4 << 20

    def __init__(self, port, target, control):
        self.target = target
        self.delay = 0.0
        self.blackhole = self.refuse = False
        self.sides = {}
        self.listener = socket.create_server(("127.0.0.1", port))
        self.control = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.control.bind(control)

    def command(self):
        words = self.control.recv(256).decode().split()
        if words[0] == "delay":
            self.delay = float(words[1]) / 1000
        elif words[0] == "cut":
            self.cut_all()
        elif words[0] == "blackhole":
            self.blackhole = True
        elif words[0] == "refuse":
            self.refuse = True
            self.cut_all()
        elif words[0] == "heal":
            self.blackhole = self.refuse = False

    def cut_all(self):
        for side in list(self.sides.values()):
            self.close(side, reset=True)

    def close(self, side, reset=False):
        for s in (side, side.other):
            if s.sock.fileno() < 0:
                continue
            del self.sides[s.sock.fileno()]
            if reset:
                s.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            s.sock.close()

    def accept(self):
        client, _ = self.listener.accept()
        if self.refuse:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            return
        try:
            server = socket.create_connection(self.target, timeout=2)
        except OSError:
            client.close()
            return
        pair = [Side(client), Side(server)]
        for s, o in (pair, pair[::-1]):
            s.other = o
            s.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            s.sock.setblocking(False)
            self.sides[s.sock.fileno()] = s

    def read(self, side):
        try:
            data = side.sock.recv(262144)
        except BlockingIOError:
            return
        except OSError:
            self.close(side, reset=True)
            return
        if not data:
            side.other.ended = True
            side.other.queue.append((0, b""))
            return
        side.other.queue.append((time.monotonic() + self.delay, data))
        side.other.queued += len(data)

    def write(self, side):
        now = time.monotonic()
        while side.queue and side.queue[0][0] <= now:
            due, data = side.queue[0]
            if not data:
                self.close(side)
                return
            try:
                n = side.sock.send(data)
            except BlockingIOError:
                return
            except OSError:
                self.close(side, reset=True)
                return
            side.queued -= n
            if n < len(data):
                side.queue[0] = (due, data[n:])
            else:
                side.queue.popleft()

    def wait_time(self):
        due = [s.queue[0][0] for s in self.sides.values() if s.queue]
        return max(0.0, min(min(due) - time.monotonic(), 1)) if due and not self.blackhole else 1

    def run(self):
        parent = os.getppid()
        while os.getppid() == parent:
            reads = [self.listener, self.control]
            writes = []
            now = time.monotonic()
            if not self.blackhole:
                reads += [s.sock for s in self.sides.values()
                          if s.other.queued < self.LIMIT and not s.other.ended]
                writes = [s.sock for s in self.sides.values() if s.queue and s.queue[0][0] <= now]
            r, w, _ = select.select(reads, writes, [], self.wait_time())
            for sock in r:
                if sock is self.listener:
                    self.accept()
                elif sock is self.control:
                    self.command()
                elif sock.fileno() in self.sides:
                    self.read(self.sides[sock.fileno()])
            for sock in w:
                if sock.fileno() in self.sides:
                    self.write(self.sides[sock.fileno()])


if __name__ == "__main__":
    Proxy(int(sys.argv[1]), (sys.argv[2], int(sys.argv[3])), sys.argv[4]).run()
