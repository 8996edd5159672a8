"""A run as one HTML page that opens from disk: tables, pictures, and a browser of samples with the tokens kept."""

from reports.page.write import write_page

__all__ = ["write_page"]
