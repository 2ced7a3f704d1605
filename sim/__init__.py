"""The deterministic simulator: whole clusters of the same code that ``ha`` runs, one seed each."""
