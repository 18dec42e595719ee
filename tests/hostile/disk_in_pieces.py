# error: 10 GB in files of 16 MB, in /tmp and /dev/shm
for i in range(600):
    with open(f"{('/tmp', '/dev/shm')[i % 2]}/part-{i}", "wb") as file:
        file.write(b"x" * (1 << 24))
