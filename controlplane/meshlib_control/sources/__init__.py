"""Where objects come from besides the API."""
