# error: the machine's /dev/null closed to everyone
import os

os.chmod("/dev/null", 0)
