"""The five services, the control CLI and the embedded stack."""
