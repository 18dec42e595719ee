# error: an abstract unix socket
import socket

socket.socket(socket.AF_UNIX).bind("\0ssd-probe-hostile")
