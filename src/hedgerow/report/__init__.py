"""What people read of finished runs: one self-contained page, and the same table as files."""

from hedgerow.report.export import write_tables
from hedgerow.report.page import write_report

__all__ = ["write_report", "write_tables"]
