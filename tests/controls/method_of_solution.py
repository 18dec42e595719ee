# pass: a method of class Solution
class Solution:
    def solve(self, xs):
        return sum(xs)
