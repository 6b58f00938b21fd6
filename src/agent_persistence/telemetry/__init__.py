"""Internal: counts, durations and spans of one store, and their snapshot. It knows no exporter and no other package."""
