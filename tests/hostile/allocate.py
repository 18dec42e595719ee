# memory: 1.5 GB at once
block = bytearray(1_500_000_000)
