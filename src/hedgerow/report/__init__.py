"""What people read of finished runs: one self-contained page, and its tables and plots as files."""

from hedgerow.report.export import FILES, write_tables
from hedgerow.report.page import write_report

__all__ = ["FILES", "write_report", "write_tables"]
