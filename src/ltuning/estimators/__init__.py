"""The three front doors: what a user builds, fits, asks, saves and loads."""
