# error: times of the machine's /dev/null
import os

os.utime("/dev/null", (0, 0))
