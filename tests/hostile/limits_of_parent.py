# error: CPU limit of the parent set to zero
import os
import resource

resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (0, 0))
