# crash: null dereference
import ctypes

ctypes.string_at(0)
