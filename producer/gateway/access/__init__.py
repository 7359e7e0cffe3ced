"""Who may do what at the gateway: keys, tokens, the page's cookie, quotas, and what guards the edge."""
