# error: a file of the user changed
with open("CANARY", "w") as file:
    file.write("changed")
