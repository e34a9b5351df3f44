"""One adapter per host behind the Protocols of `ports.py`; the only package that imports a host's modules."""
