"""Tables, figures and claims, beside the published numbers."""

__all__ = ["claims", "claims_page", "figures", "metrics", "page", "results", "tables"]
