"""Built-in backend adapters. Each is found through its entry point, as a site's own plugins are."""
