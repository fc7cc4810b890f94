"""Media that FFmpeg decodes: ``decoder`` reads from the process that ``process`` runs."""
