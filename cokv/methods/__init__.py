"""Methods: scorers, allocators and policies, the registry that names them, plugins, and the conformance checks."""
