# error: a key in the home folder
print(open("HOME/.ssh/id_rsa").read())
