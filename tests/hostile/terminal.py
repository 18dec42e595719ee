# error: input pushed to a terminal
import fcntl
import termios

with open("/dev/tty", "w") as tty:
    fcntl.ioctl(tty, termios.TIOCSTI, b"x")
