"""Any octets into every parser, cut at any places: the same comes out, and only declared failures are raised.

A target takes the octets and the places at which they are cut. Under pytest hypothesis makes both, out of the target's
words; `run.py` has Atheris make the octets, guided by the branches that they reach. What either has found is kept in
`corpus/`, and pytest reads all of that again.
"""
