"""HTTP with JSON: ``create_app`` builds the application, ``serve`` puts it on a port."""
