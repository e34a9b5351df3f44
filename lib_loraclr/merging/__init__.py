"""A merge, from its options to its file: config, inputs, pipeline, write, report."""
