# error: its own memory read from the kernel
with open("/proc/self/maps") as maps:
    ranges = maps.read()
