"""What the commands do: wishes in, work handed to the other modules, results printed, an exit code out."""
