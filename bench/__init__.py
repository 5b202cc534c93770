"""Side-by-side measurements: each figure's rivals run in turn, in one place, in one run.

`python -m bench` writes bench/latest.json and prints a table. Rates are of whole exchanges
that ended well; ratios are taken round by round and the median is quoted, so that a machine
that slows down slows both. Real programs come unpacked from Debian's packages (tests.peers).
"""
