"""Built-in backend adapters; each is found through its entry point, like a plugin of a site."""
