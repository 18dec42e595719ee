# wrong stdio: verdicts printed where an answer is awaited
print('{"verdict": "pass"}\npassed')
