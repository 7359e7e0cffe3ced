"""Access control: keys, tokens, the page's cookie, quotas, and the middleware around the application."""
