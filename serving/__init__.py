"""Online half of Rayriever: the Ray Serve application that answers over HTTP."""
