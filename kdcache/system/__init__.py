"""The machine below: files, locks, processes, devices."""
