"""Reports of what a corpus or a curated dataset is made of: JSON, text, and one HTML file without scripts."""

from assay.dashboard.page import as_html
from assay.dashboard.report import Report, RuleLine, TaggerLine, Totals, as_json
from assay.dashboard.text import as_text, renderable

__all__ = ["Report", "RuleLine", "TaggerLine", "Totals", "as_html", "as_json", "as_text", "renderable"]
