"""Published numbers with their sources: what papers, repositories and maintainers print, and how to look one up."""

from reports.reported.table import PublishedValue, published_values

__all__ = ["PublishedValue", "published_values"]
