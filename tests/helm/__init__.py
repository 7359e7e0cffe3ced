"""The chart, its dashboards and alerts, and the images: rendered, checked against schemas, and held to their guards."""
