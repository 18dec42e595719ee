# error: a name given to one end of a pair
import socket

one, other = socket.socketpair()
one.bind("\0ssd-probe-hostile")
