"""What we use of the WebUIs' own modules; `tests/hosts/contract.py` says in which file each name is."""
