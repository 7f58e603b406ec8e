"""The networks inside heads: tiles in, outputs and a weight for every tile out. One module for each family."""
