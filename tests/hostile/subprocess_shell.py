# error: a shell
import subprocess

subprocess.run(["/bin/sh", "-c", "kill -9 -1"])
