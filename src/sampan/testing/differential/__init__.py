"""The same command lines against two engines: cases as data, their runs, and the comparison of what they show.

It knows engines only by a command and an environment, and nothing of sampan's insides.
"""
