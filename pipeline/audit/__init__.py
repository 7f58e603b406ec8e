"""`wsi verify`: goes through an output folder, tells what is not as it was written, and removes it if asked to."""
