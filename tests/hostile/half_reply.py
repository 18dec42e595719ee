# timeout: half of a reply, and then nothing
import os
import time

for descriptor in range(3, 64):
    try:
        os.write(descriptor, b"\0\0\1\0{")
    except OSError:
        pass
time.sleep(600)
