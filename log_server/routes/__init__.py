"""HTTP only: each module reads a request strictly, calls the service, and writes the answer."""
