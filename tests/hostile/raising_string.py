# crash|error: an exception that cannot be shown
class Bad(Exception):
    def __str__(self):
        raise self


raise Bad
