"""What people and programs use: command line, HTTP API, merge tab, regional panel."""
