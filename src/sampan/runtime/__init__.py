"""An OCI runtime: plan, execution, launcher and shim. It knows nothing of images or of the API."""
