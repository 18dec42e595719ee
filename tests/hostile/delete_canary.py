# error: a file of the user deleted
import os

os.remove("CANARY")
