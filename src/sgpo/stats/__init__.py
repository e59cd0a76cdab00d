"""Statistics on human pairs: temperature, intervals, ranking, calibration, which round to ship, certificates."""
