"""From the words on a command line to checked objects; :mod:`dpforge.config` is the public face."""
