# error: a file of 150 MB
with open("/tmp/large", "wb") as file:
    for _ in range(150):
        file.write(b"x" * 1_000_000)
