# error: a file in the standard library
import os

with open(os.path.join(os.path.dirname(os.__file__), "sitecustomize.py"), "w") as file:
    file.write("raise SystemExit")
