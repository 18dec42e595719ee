# error: a link that leads out, and a write through it
import os

os.symlink("CANARY", "/tmp/link")
with open("/tmp/link", "w") as file:
    file.write("changed")
