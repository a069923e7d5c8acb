"""Commands. Run them from the checkout as `python -m experiments.NAME`; `--help` lists the flags.

A command reads its flags, checks its input, calls the library and writes files. Exit codes: 0
done, 2 the input or the command line is at fault, 3 numbers went non-finite.
"""
