# error: memory that no limit counts, by memfd_create
import os

descriptors = [os.memfd_create(f"m{i}") for i in range(50)]
for descriptor in descriptors:
    os.write(descriptor, b"x" * (1 << 24))
