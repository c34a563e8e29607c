"""The page in a browser: a thin skin over the queue of jobs."""
