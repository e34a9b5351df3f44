"""Use cases behind every face: merge, inspect, overlap, generate. Options are parsed and validated here only."""
