"""A plugin whose dependency is missing. Nobody names it, so nobody is hurt."""

raise ImportError("libacme.so.3: cannot open shared object file: No such file or directory")
