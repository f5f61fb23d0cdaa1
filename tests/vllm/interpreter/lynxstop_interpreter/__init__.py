"""A backend that lets Triton kernels run in Triton's own interpreter on a machine without a GPU; for tests
only."""
