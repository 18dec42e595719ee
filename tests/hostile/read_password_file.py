# error: the users of this machine
print(open("/etc/passwd").read())
